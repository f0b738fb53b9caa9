"""The metadata API and its description, docs/openapi.yaml, against the routes of an assembled daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from tests.support.main_thread import write_settings
from zmsd.assembly import Requests, Services, assemble
from zmsd.config.document import parse
from zmsd.config.settings import load
from zmsd.deadline import Deadline
from zmsd.gateway.http import Page, Reader
from zmsd.gateway.server import PUBLIC
from zmsd.metadata.api import table_spec
from zmsd.schema.catalog import load_catalog
from zmsd.schema.loading import load_documents
from zmsd.zero import protocol

ROOT = Path(__file__).resolve().parents[3]
OPENAPI: Any = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
PAGES = sorted(OPENAPI["paths"].keys() - {protocol.PATH})

COLUMNS = {
    "id": {"type": "string"},
    "n": {"type": "number", "optional": True},
    "b": {"type": "boolean"},
    "j": {"type": "json", "optional": True},
    "u": {"type": "null", "optional": True},
}
SCHEMA = {name: {"columns": COLUMNS, "primaryKey": ["id"]} for name in ("plain", "shaped", "unwound")}
MAPPINGS = {
    "plain": {"collection": "a", "filter": {"t": {"$in": ["x", {"$oid": "65f000000000000000000001"}]}}},
    "shaped": {"source": "b", "projection": {"id": {"$toString": "$_id"}, "n": 1}, "revision": 3},
    "unwound": {"source": "c", "pipeline": [{"$unwind": "$lines"}, {"$project": {"id": "$lines.id"}}]},
}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """A daemon that is not started, so its MongoDB is not reached."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    mappings = {"tables": MAPPINGS}
    settings = load(write_settings(tmp_path, mappings=mappings), {})
    found = assemble(settings, load_documents(settings), Requests(lambda: None, lambda: None, lambda thread: None))
    yield found
    found.server.stop(Deadline(1))
    found.hub.store.close()
    found.hub.source.close()


def page(services: Services, path: str, *, allowed: bool = True, html: bool = False) -> Page:
    return services.server.pages[path](Reader(allowed, html))


def test_description_is_valid_openapi() -> None:
    validate(OPENAPI)


def test_description_has_the_routes_of_the_server(services: Services) -> None:
    assert OPENAPI["paths"].keys() == {protocol.PATH, *services.server.pages}


def test_description_has_the_token_rules_of_the_server() -> None:
    without_token = {path for path, item in OPENAPI["paths"].items() if item["get"].get("security") == []}
    refusing = {path for path, item in OPENAPI["paths"].items() if "401" in item["get"]["responses"]}
    assert without_token == set(PUBLIC)
    assert refusing == OPENAPI["paths"].keys() - without_token


@pytest.mark.parametrize("html", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("path", PAGES)
def test_page_fits_its_description(services: Services, path: str, allowed: bool, html: bool) -> None:
    if not allowed and path not in PUBLIC:
        return  # the server refuses it
    answer = page(services, path, allowed=allowed, html=html)
    responses = OPENAPI["paths"][path]["get"]["responses"]
    response = responses[str(answer.status)]
    if "$ref" in response:
        response = OPENAPI["components"]["responses"][response["$ref"].rpartition("/")[2]]
    kind = answer.type.partition(";")[0]
    body = json.loads(answer.body) if kind == "application/json" else answer.body
    schema = {**response["content"][kind]["schema"], "components": OPENAPI["components"]}
    Draft202012Validator(schema).validate(body)


def test_metadata_status_has_the_six_documented_fields(services: Services) -> None:
    found = json.loads(page(services, "/metadata/status").body)
    assert found.pop("uptime") < 60
    assert found == {
        "status": "unhealthy",
        "schemaSource": "file",
        "schemaLoaded": True,
        "tablesCount": 3,
        "collectionsWatched": ["a", "b", "c"],
    }


def test_tables_load_as_a_schema_with_mappings(services: Services) -> None:
    body = page(services, "/metadata/tables").body
    catalog = load_catalog(parse(body, "tables.json", kind="json"), None)
    assert catalog == services.hub.active.catalog
    assert [table_spec(table) for table in catalog.tables] == json.loads(body)["tables"]


def test_schemas_name_the_publication(services: Services) -> None:
    (found,) = json.loads(page(services, "/metadata/schemas").body)["schemas"]
    assert found["fingerprint"] == services.hub.active.fingerprint
    assert found["tables"] == ["plain", "shaped", "unwound"]
