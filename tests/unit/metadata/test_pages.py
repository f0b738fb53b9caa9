"""The pages of a daemon of fakes: what they show, and what they hide from a reader without the token."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from tests.unit.fakes import FakeDispatcher, FakeStore, hub
from zmsd.gateway.http import Page, Reader
from zmsd.gateway.server import PageMaker
from zmsd.metadata.monitor import Monitor
from zmsd.metadata.pages import pages
from zmsd.prometheus import Registry
from zmsd.replication.hub import Hub
from zmsd.replication.problems import Problem
from zmsd.schema.refresh import Refresh

REASON = "not authorized on secretDatabase"


class Served:
    """The pages, and the parts that they show."""

    def __init__(self) -> None:
        self.store = FakeStore()
        registry = Registry()
        self.hub: Hub = hub(store=self.store, registry=registry)
        monitor = Monitor(self.hub, FakeDispatcher(self.hub), lambda: [])
        self.pages: Mapping[str, PageMaker] = pages(monitor, registry, Refresh(lambda: None))

    def get(self, path: str, *, allowed: bool = True, html: bool = False) -> Page:
        return self.pages[path](Reader(allowed, html))


def test_readyz_is_200_only_while_the_feed_runs() -> None:
    served = Served()
    assert served.get("/readyz")[:3] == (200, "text/plain; charset=utf-8", "ready\n")
    served.hub.readiness.set(REASON)
    assert (served.get("/readyz").status, served.get("/readyz").body) == (503, f"{REASON}\n")
    assert served.get("/healthz").status == 200, "a restart would not help"


def test_readyz_without_the_token_gives_no_reason() -> None:
    served = Served()
    served.hub.readiness.set(REASON)
    served.store.failing = "secretDisk is full"
    served.hub.problems.current = (Problem("type", "secretView", "is a view"),)
    assert served.get("/readyz", allowed=False).body == "not ready\n"
    served.hub.readiness.set(None)
    assert served.get("/readyz", allowed=False).body == "ready\n"
    assert served.get("/readyz").body.splitlines() == [
        "ready",
        "note: secretView is a view",
        "note: the watermark store cannot be written: secretDisk is full",
    ]


def test_root_is_html_for_browsers_and_json_for_programs() -> None:
    served = Served()
    browser, program = served.get("/", html=True), served.get("/")
    assert browser.type.startswith("text/html")
    assert json.loads(program.body)["name"] == "zmsd"
    assert browser.headers["Vary"] == program.headers["Vary"] == "Accept", "a cache must not mix them up"


@pytest.mark.parametrize(
    "path", ["/health", "/metadata/schemas", "/metadata/status", "/metadata/tables", "/status.json"]
)
def test_page_for_programs_is_json(path: str) -> None:
    page = Served().get(path)
    assert (page.status, page.type) == (200, "application/json")
    assert json.loads(page.body)


def test_metrics_are_text_for_prometheus() -> None:
    page = Served().get("/metrics")
    assert page.type.startswith("text/plain; version=0.0.4")
    assert "zmsd_lag_seconds_count 0" in page.body


def test_status_page_is_constant_and_loads_from_its_own_origin_only() -> None:
    served = Served()
    page = served.get("/status")
    served.hub.readiness.set(REASON)
    assert served.get("/status") == page
    assert "connect-src 'self'" in page.headers["Content-Security-Policy"]
