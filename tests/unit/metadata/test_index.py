"""The page ``/``: links for browsers, JSON for programs, and nothing about tables without the token."""

from __future__ import annotations

import re

import pytest

from tests.unit.fakes import FakeDispatcher, active, hub
from zmsd import __version__
from zmsd.gateway.server import PUBLIC
from zmsd.metadata.index import LINKS, Index
from zmsd.metadata.monitor import Monitor
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.publication import Publication
from zmsd.schema.tables import Column, TableSpec

HOSTILE = "<img src=x onerror=alert(1)>"


def index(reason: str | None = None) -> Index:
    table = Table(
        TableSpec("secretTable", (Column("id", "string", False),), ("id",)),
        Mapping("secretCollection", (("id", "_id"),)),
    )
    served = hub(published=active(Publication(Catalog((table,)))))
    served.readiness.set(reason)
    return Index(Monitor(served, FakeDispatcher(served), lambda: []))


def test_page_links_every_other_page() -> None:
    found = index().html(allowed=True)
    assert found.type == "text/html; charset=utf-8"
    assert re.findall(r'href="(/[^"]*)"', found.body) == list(LINKS)
    assert __version__ in found.body
    assert "<title>zmsd: serving</title>" in found.body
    assert "token" not in found.body.split("<main>")[1].split("</main>")[0].lower()


def test_page_without_token_shows_public_pages_only() -> None:
    found = index("no secretCollection").html(allowed=False).body
    assert set(re.findall(r'href="(/[^"]*)"', found)) == set(PUBLIC) - {"/"}
    assert "secret" not in found
    assert __version__ not in found
    assert "not ready" in found
    assert "?token=TOKEN" in found


def test_json_without_token_shows_no_table() -> None:
    assert index().json(allowed=False).keys() == {"name", "protocol"}
    assert index().json(allowed=True)["tables"]["secretTable"]["collection"] == "secretCollection"


@pytest.mark.parametrize("allowed", [True, False])
def test_reason_is_escaped(allowed: bool) -> None:
    found = index(f"{HOSTILE} {{{{links}}}}").html(allowed=allowed).body
    assert "<img" not in found
    assert ("&lt;img" in found) is allowed
    assert found.count("<li>") <= len(LINKS), "a value is not a field of the page"
