"""Load the documents that the settings name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.endpoint import Endpoint
from zmsd.config import settings as config
from zmsd.errors import ConfigError
from zmsd.schema.fetch import EndpointDown
from zmsd.schema.loading import LoadedDocuments, load_documents

SCHEMA = {"item": {"columns": {"id": {"type": "string"}}, "primaryKey": ["id"]}}


def published(directory: Path, permissions: Any, schema: Any = SCHEMA) -> LoadedDocuments:
    (directory / "schema.json").write_text(json.dumps(schema))
    (directory / "permissions.json").write_text(json.dumps(permissions))
    settings = {
        "mongodb": {"uri": "mongodb://127.0.0.1/db"},
        "schema": {"file": "schema.json"},
        "zero": {"permissions": {"file": "permissions.json"}},
    }
    (directory / "zmsd.json").write_text(json.dumps(settings))
    return load_documents(config.load(directory / "zmsd.json", {}))


def test_permissions_are_loaded(tmp_path: Path) -> None:
    found = published(tmp_path, {"tables": {}})
    assert found.permissions == {"tables": {}}
    assert found.catalog.collections == ("item",)


@pytest.mark.parametrize(
    ("permissions", "kind"),
    [([], "a list"), ("x", "text"), (5, "a number"), (None, "nothing")],
)
def test_permissions_that_are_not_an_object_are_an_error(tmp_path: Path, permissions: Any, kind: str) -> None:
    issue = f"{tmp_path}/permissions.json:1:1: must be an object of permissions, not {kind}"
    with pytest.raises(ConfigError) as caught:
        published(tmp_path, permissions)
    assert str(caught.value) == issue
    with pytest.raises(ConfigError) as caught:
        published(tmp_path, permissions, {"item": {"columns": {}}})
    assert issue in str(caught.value)
    assert len(caught.value.issues) > 1, "with those of the other documents"


INLINE = """\
mongodb: {uri: "mongodb://127.0.0.1/db"}
schema:
  tables:
    item:
      columns: {id: {type: string}, name: {type: %s}}
      primaryKey: [id]
mappings:
  tables:
    item: {collection: things, fields: {name: %s}}
zero:
  permissions: {tables: {item: {row: {}}}}
"""


def test_inline_documents_load_as_files_do(tmp_path: Path) -> None:
    (tmp_path / "zmsd.yaml").write_text(INLINE % ("string", "title"))
    settings = config.load(tmp_path / "zmsd.yaml", {})
    found = load_documents(settings)
    (table,) = found.catalog.tables
    assert table.mapping.collection == "things"
    assert table.mapping.fields == (("id", "id"), ("name", "title"))
    assert found.permissions == {"tables": {"item": {"row": {}}}}
    assert not (tmp_path / "documents").exists(), "no copy is kept"
    assert config.load(tmp_path / "zmsd.yaml", {}) == settings
    (tmp_path / "zmsd.yaml").write_text(INLINE % ("string", "label"))
    assert config.load(tmp_path / "zmsd.yaml", {}) != settings, "a reload sees the change"


def test_inline_document_error_points_into_settings_file(tmp_path: Path) -> None:
    (tmp_path / "zmsd.yaml").write_text(INLINE % ("text", "5"))
    with pytest.raises(ConfigError) as caught:
        load_documents(config.load(tmp_path / "zmsd.yaml", {}))
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/zmsd.yaml:5:44: schema.tables.item.columns.name.type: "
        "must be one of string, number, boolean, json, null, got 'text'",
    ]
    (tmp_path / "zmsd.yaml").write_text(INLINE % ("string", "5"))
    with pytest.raises(ConfigError) as caught:
        load_documents(config.load(tmp_path / "zmsd.yaml", {}))
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/zmsd.yaml:9:41: mappings.tables.item.fields.name: must be the path of a field",
    ]


def test_inline_document_in_json_settings_has_positions(tmp_path: Path) -> None:
    schema = {"tables": {"item": {"columns": {"id": {"type": "text"}}, "primaryKey": ["id"]}}}
    settings = {"mongodb": {"uri": "mongodb://127.0.0.1/db"}, "schema": schema}
    (tmp_path / "zmsd.json").write_text(json.dumps(settings, indent=1))
    with pytest.raises(ConfigError) as caught:
        load_documents(config.load(tmp_path / "zmsd.json", {}))
    assert str(caught.value).startswith(f"{tmp_path}/zmsd.json:10:7: schema.tables.item.columns.id.type: must be")


MAPPINGS = {"item": {"collection": "things"}}


@pytest.fixture
def urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LoadedDocuments]]:
    """Return ``urls(schema, mappings, **options)``, which loads documents from endpoints that return these bodies (JSON
    or bytes)."""
    monkeypatch.setenv("no_proxy", "*")
    endpoint = Endpoint()

    def published(schema: Any, mappings: Any, **options: Any) -> LoadedDocuments:
        settings: dict[str, Any] = {"mongodb": {"uri": "mongodb://127.0.0.1/db"}}
        for name, body in {"schema": schema, "mappings": mappings}.items():
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            settings[name] = {"url": endpoint.say(f"/{name}", raw)}
        (tmp_path / "zmsd.json").write_text(json.dumps(settings))
        return load_documents(config.load(tmp_path / "zmsd.json", {}), **options)

    yield published
    endpoint.stop()


BAD: list[Any] = [b"", b"<html></html>", b'{"item', b"\x1f\x8b\x08", [], 5, None, "x", {"error": "maintenance"}]


@pytest.mark.parametrize("bad", [*BAD, {}, {"item": {"columns": {"id": {"type": "strin"}}, "primaryKey": ["id"]}}])
def test_unusable_schema_falls_back_to_the_cached_document(urls: Callable[..., LoadedDocuments], bad: Any) -> None:
    good = urls(SCHEMA, MAPPINGS)
    found = urls(bad, MAPPINGS)
    assert found.catalog == good.catalog
    (_, schema), (_, mappings) = found.documents
    assert schema.issue is not None
    assert schema.age is not None
    assert mappings.issue is None


@pytest.mark.parametrize("bad", [*BAD, {"item": {"collection": "a$"}}, {"other": {"collection": "a"}}])
def test_unusable_mappings_fall_back_to_the_cached_document(urls: Callable[..., LoadedDocuments], bad: Any) -> None:
    good = urls(SCHEMA, MAPPINGS)
    assert urls(SCHEMA, bad).catalog == good.catalog
    assert urls(SCHEMA, MAPPINGS).documents[1][1].issue is None


def test_documents_that_do_not_fit_each_other_fall_back_together(urls: Callable[..., LoadedDocuments]) -> None:
    two = {**SCHEMA, "other": SCHEMA["item"]}
    good = urls(two, {**MAPPINGS, "other": {"collection": "others"}})
    found = urls(SCHEMA, {**MAPPINGS, "other": {"collection": "others", "feilds": {}}})
    assert found.catalog == good.catalog
    assert [fetched.issue is not None for _, fetched in found.documents] == [True, True]


@pytest.mark.parametrize("bad", BAD)
def test_unusable_document_without_cache_is_endpoint_down(urls: Callable[..., LoadedDocuments], bad: Any) -> None:
    with pytest.raises(EndpointDown):
        urls(bad, MAPPINGS)


def test_running_publication_is_kept_when_the_check_finds_an_error(urls: Callable[..., LoadedDocuments]) -> None:
    good = urls(SCHEMA, MAPPINGS, fall_back=False)
    with pytest.raises(EndpointDown, match="has no such table"):
        urls(SCHEMA, {"other": {"collection": "a"}}, fall_back=False)
    assert urls(b"<html>", MAPPINGS, fall_back=False).catalog == good.catalog


def test_file_with_an_error_is_a_configuration_error(tmp_path: Path) -> None:
    """An error in a file is final also if a URL is down: waiting would not repair the file."""
    (tmp_path / "schema.json").write_text("{}")
    settings = {
        "mongodb": {"uri": "mongodb://127.0.0.1/db"},
        "schema": {"file": "schema.json"},
        "mappings": {"url": "http://127.0.0.1:1/m"},
    }
    (tmp_path / "zmsd.json").write_text(json.dumps(settings))
    loaded = config.load(tmp_path / "zmsd.json", {})
    with pytest.raises(EndpointDown):  # the schema is not checked without its mappings
        load_documents(loaded)
    (tmp_path / "schema.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON") as caught:
        load_documents(loaded)
    assert not isinstance(caught.value, EndpointDown)
