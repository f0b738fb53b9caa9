"""BSON values in columns of each type, in the initial sync and in the stream."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from bson import Binary, Decimal128, Int64, ObjectId

from tests.support.compare import assert_same
from tests.support.types import Db, Follow, Serve

TYPES = ("string", "number", "boolean", "json")
SCHEMA = {
    "v": {
        "tableName": "v",
        "columns": {"id": {"type": "string"}, **{kind: {"type": kind} for kind in TYPES}},
        "primaryKey": ["id"],
    }
}
MAPPINGS = {"v": {"collection": "v", "fields": {"id": "_id", **dict.fromkeys(TYPES, "value")}}}
VALUES: dict[str, Any] = {
    "text": 'grüße 🎈 " \\ \n </script>',
    "empty": "",
    "true": True,
    "int": 42,
    "long": Int64(2**60 + 1),
    "negative": -7,
    "double": 0.1,
    "nan": float("nan"),
    "infinity": float("-inf"),
    "null": None,
    "decimal": Decimal128("123456789012345678901234567890.125"),
    "date": datetime(2024, 2, 29, 23, 59, 59, 999000),
    "before 1970": datetime(1969, 12, 31, 23, 59, 59, 1000),
    "object id": ObjectId("0123456789abcdef01234567"),
    "binary": Binary(b"\x00\xff\x10"),
    "uuid": Binary.from_uuid(UUID("12345678-1234-5678-1234-567812345678")),
    "object": {"a": {"b": [1, None, {"c": ObjectId("0123456789abcdef01234567")}]}, "x": 1.5, "ü": "\u2028"},
    "array": [1, "two", datetime(2024, 1, 2), Decimal128("0.1"), float("inf"), []],
    "empty object": {},
}


def test_each_bson_value_in_each_column_type_arrives(
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    docs = [{"_id": name, "value": value} for name, value in VALUES.items()] + [{"_id": "missing"}]
    database.v.insert_many(docs)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
    rows = client.rows("v")
    assert rows["date",] == {
        "id": "date",
        "string": "2024-02-29T23:59:59.999Z",
        "number": 1709251199999,
        "boolean": None,
        "json": "2024-02-29T23:59:59.999Z",
    }
    assert rows["long",]["string"] == "1152921504606846977"
    assert rows["decimal",]["string"] == "123456789012345678901234567890.125"
    assert rows["uuid",]["string"] == "12345678-1234-5678-1234-567812345678"
    assert rows["text",]["number"] is None, "what does not fit is null"

    database.v.delete_many({})
    database.v.insert_many(docs)
    database.v.insert_one({"_id": "end"})
    client.wait_for(lambda replica: ("end",) in replica.rows["v"], "the stream is through")
    assert_same(database, SCHEMA, MAPPINGS, client.replica)


@pytest.mark.images
def test_row_without_its_key_is_rejected_and_logged(
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    schema = {"v": {"tableName": "v", "columns": {"code": {"type": "string"}}, "primaryKey": ["code"]}}
    database.v.insert_many([{"code": "a"}, {"code": None}, {}, {"code": {"no": "string"}}])
    zmsd = serve(schema)
    client = follow(zmsd)
    assert client.rows("v").keys() == {("a",)}
    database.v.insert_one({"code": None})
    database.v.insert_one({"code": "b"})
    assert client.wait_rows("v", 2).keys() == {("a",), ("b",)}
    assert zmsd.log("v.*code|code.*v"), zmsd.stderr()


@pytest.mark.images
def test_key_of_several_columns_may_change(
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    columns = {"year": {"type": "number"}, "name": {"type": "string"}, "text": {"type": "string"}}
    schema = {"v": {"tableName": "v", "columns": columns, "primaryKey": ["year", "name"]}}
    database.v.insert_one({"_id": 1, "year": 2024, "name": "a", "text": "t"})
    client = follow(serve(schema))
    database.v.update_one({"_id": 1}, {"$set": {"year": 2025}})
    client.wait_for(lambda replica: replica.transactions, "the change")
    assert client.rows("v") == {(2025, "a"): {"year": 2025, "name": "a", "text": "t"}}


@pytest.mark.images
def test_document_that_looks_like_a_dbref_keeps_its_fields(
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    """pymongo makes a DBRef of a document with ``$ref`` and ``$id``, also where all its fields are read."""
    row = {"id": "$$ROOT._id", "string": "$$ROOT.value"}
    mappings = {"v": {"source": "v", "pipeline": [{"$replaceRoot": {"newRoot": row}}]}}
    reference = {"$ref": "other", "$id": 5, "value": "x"}
    database.command({"insert": "v", "documents": [{"_id": "copied", **reference}]})
    client = follow(serve(SCHEMA, mappings))
    assert {key: row["string"] for key, row in client.rows("v").items()} == {("copied",): "x"}
    database.command({"insert": "v", "documents": [{"_id": "streamed", **reference}]})
    database.v.update_one({"_id": "copied"}, {"$set": {"value": "y"}})
    client.wait_for(lambda replica: len(replica.rows["v"]) == 2 and replica.rows["v"]["copied",]["string"] == "y", "y")
    database.v.delete_one({"_id": "copied"})
    client.wait_rows("v", 1)
    assert client.rows("v")["streamed",]["string"] == "x"
