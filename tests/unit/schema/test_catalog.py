from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId

from tests.support import seed
from zmsd.config.document import ConfigDocument, parse
from zmsd.errors import ConfigError
from zmsd.schema.catalog import Catalog, Table, load_catalog
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec


def document(data: Any, name: str = "schema.json") -> ConfigDocument:
    return parse(data if isinstance(data, str) else json.dumps(data), name, kind="json")


def load(schema: Any, mappings: Any = None) -> Catalog:
    return load_catalog(document(schema), None if mappings is None else document(mappings, "mappings.json"))


def faults_of(schema: Any, mappings: Any = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(schema, mappings)
    return list(map(str, caught.value.issues))


def table(name: str = "t", key: str = "id", mapping: Any = None, **columns: str) -> dict[str, Any]:
    types = {key: "string", **columns}
    return {name: {"columns": {column: {"type": kind} for column, kind in types.items()}, "primaryKey": [key]}}


def test_seed_documents_are_loaded() -> None:
    catalog = load(seed.SCHEMA, seed.MAPPINGS)
    columns = (Column("id", "string"), Column("content", "string"), Column("createdAt", "number"))
    fields = (("id", "_id"), ("content", "content"), ("createdAt", "timestamp"))
    assert catalog.tables == (Table(TableSpec("message", columns, ("id",)), Mapping("messages", fields)),)
    assert catalog.warnings == ("mappings.json:7:1: message.fields.userId: the table has no such column",)


def test_tables_without_mappings_are_collections() -> None:
    catalog = load({**table("a"), **table("b", x="number")})
    assert [(entry.name, entry.mapping) for entry in catalog.tables] == [
        ("a", Mapping("a", (("id", "id"),))),
        ("b", Mapping("b", (("id", "id"), ("x", "x")))),
    ]


def test_collections_list_their_tables() -> None:
    names = {name: {"collection": collection} for name, collection in {"a": "x", "b": "m", "c": "x"}.items()}
    catalog = load({**table("a"), **table("b"), **table("c")}, names)
    assert catalog.collections == ("m", "x")
    assert {name: [entry.name for entry in tables] for name, tables in catalog.by_collection.items()} == {
        "x": ["a", "c"],
        "m": ["b"],
    }


def test_errors_of_both_documents_are_reported_at_once() -> None:
    schema = {**table("a", x="uuid"), **table("b")}
    mappings = {"a": {"collection": "fine"}, "b": {}, "c": {}, "d": 5}
    assert [issue.partition(": ")[2] for issue in faults_of(schema, mappings)] == [
        "a.columns.x.type: must be one of string, number, boolean, json, null, got 'uuid'",
        "b: needs a collection",
        "c: the schema has no such table",
        "d: the schema has no such table",
    ]


def test_mapping_that_reads_beyond_one_document_is_an_error_with_position() -> None:
    (issue,) = faults_of(table(), {"t": {"source": "m", "pipeline": [{"$limit": 1}]}})
    assert issue.startswith("mappings.json:1:37: t.pipeline[0].$limit: looks beyond one document")


@pytest.mark.parametrize(
    ("schema", "key"),
    [
        (table("a$b"), "a$b: not a name that MongoDB takes for a collection: 'a$b': it has '$' in it; map it"),
        (table("t", **{"$x": "string"}), "t.columns.$x: not a path of names between dots: '$x': "),
    ],
)
def test_names_invalid_in_mongodb_need_a_mapping(schema: Any, key: str) -> None:
    (issue,) = faults_of(schema)
    assert issue.partition(": ")[2].startswith(key)
    fields = dict.fromkeys(("id", "$x"), "f")
    assert load(schema, {next(iter(schema)): {"collection": "c", "fields": fields}}).collections == ("c",)


def test_schema_without_tables_is_the_only_error() -> None:
    assert faults_of({}, {"a": {}, "b": {}}) == ["schema.json:1:1: names no table"]


COMPUTED = Mapping(
    "m",
    None,
    {"_id": {"$ne": ObjectId("65f000000000000000000001")}, "a": {"$regex": "x", "$options": "i"}},
    {"id": "$_id", "x": {"$add": [1, 1.0, Int64(1), True, None, Decimal128("1.0"), float("inf"), b"\0", "\ud800"]}},
)
SPEC = TableSpec("t", (Column("id", "string"), Column("x", "json", optional=True)), ("id",))


@pytest.mark.parametrize(
    "mapping",
    [
        COMPUTED,
        replace(COMPUTED, revision=7),
        replace(COMPUTED, projection=None, pipeline=[{"$sort": {"b": 1, "a": -1}}]),
    ],
)
def test_json_is_lossless(mapping: Mapping) -> None:
    catalog = Catalog((Table(SPEC, mapping),), ("a warning",))
    text = catalog.to_json()
    assert text.isascii()
    again = Catalog.from_json(text)
    assert again == catalog
    assert again.warnings == ()
    assert again.to_json() == text
    assert again.fingerprint == catalog.fingerprint
    assert repr(again.tables) == repr(catalog.tables), "types too, and the order of keys"


def test_fingerprint_depends_on_meaning_only() -> None:
    one = load({**table("a", x="number", y="json"), **table("b")}, {"a": {"collection": "m", "fields": {"x": "p"}}})
    same = load(
        {
            **table("b"),
            "a": {
                "columns": {"y": {"type": "json"}, "x": {"type": "number"}, "id": {"type": "string"}},
                "primaryKey": ["id"],
            },
        },
        {"b": {"source": "b"}, "a": {"source": "m", "projection": {"id": 1, "x": "$p"}, "filter": {}}},
    )
    assert one.fingerprint == same.fingerprint
    assert len(one.fingerprint) == 64
    others = [
        load({**table("a", x="number", y="json"), **table("b")}, {"a": {"collection": "m", "fields": {"x": "q"}}}),
        load({**table("a", x="string", y="json"), **table("b")}, {"a": {"collection": "m", "fields": {"x": "p"}}}),
        load(table("a", x="number", y="json"), {"a": {"collection": "m", "fields": {"x": "p"}}}),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_fingerprint_distinguishes_values_equal_in_python() -> None:
    values: list[Any] = [1, 1.0, True, Int64(1)]
    filters = [Catalog((Table(SPEC, Mapping("m", (), {"a": value})),)).fingerprint for value in values]
    sorts = [{"$sort": {"a": 1, "b": 1}}, {"$sort": {"b": 1, "a": 1}}]
    pipelines = [Catalog((Table(SPEC, Mapping("m", None, pipeline=[sort])),)).fingerprint for sort in sorts]
    assert len({*filters, *pipelines}) == 6
