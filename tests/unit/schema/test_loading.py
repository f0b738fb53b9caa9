"""What the settings publish, from their documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zmsd.config import settings as config
from zmsd.errors import ConfigError
from zmsd.schema.loading import Publication, publication

SCHEMA = {"item": {"columns": {"id": {"type": "string"}}, "primaryKey": ["id"]}}


def published(directory: Path, permissions: Any, schema: Any = SCHEMA) -> Publication:
    (directory / "schema.json").write_text(json.dumps(schema))
    (directory / "permissions.json").write_text(json.dumps(permissions))
    settings = {
        "mongodb": {"uri": "mongodb://127.0.0.1/db"},
        "schema": {"file": "schema.json"},
        "zero": {"permissions": {"file": "permissions.json"}},
    }
    (directory / "zmsd.json").write_text(json.dumps(settings))
    return publication(config.load(directory / "zmsd.json", {}))


def test_permissions(tmp_path: Path) -> None:
    found = published(tmp_path, {"tables": {}})
    assert found.permissions == {"tables": {}}
    assert found.catalog.collections == ("item",)


@pytest.mark.parametrize(
    ("permissions", "kind"),
    [([], "a list"), ("x", "text"), (5, "a number"), (None, "nothing")],
)
def test_permissions_that_are_none(tmp_path: Path, permissions: Any, kind: str) -> None:
    fault = f"{tmp_path}/permissions.json:1:1: must be an object of permissions, not {kind}"
    with pytest.raises(ConfigError) as caught:
        published(tmp_path, permissions)
    assert str(caught.value) == fault
    with pytest.raises(ConfigError) as caught:
        published(tmp_path, permissions, {"item": {"columns": {}}})
    assert fault in str(caught.value)
    assert len(caught.value.faults) > 1, "with those of the other documents"
