"""A Zero client shows the content of MongoDB."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bson import Binary, Decimal128, Int64, ObjectId

from tests.e2e.conftest import Zero, wait_same
from tests.support.mongod import Client
from tests.support.types import Db, Serve
from tests.support.writer import Writer, mappings_of, schema_of

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "negative": -7,
    "safe": 2**53,
    "unsafe": Int64(2**53 + 1),
    "int64": Int64(2**63 - 1),
    "float": 1.5,
    "whole": 5.0,
    "tiny": 1.5e-7,
    "least": 5e-324,
    "beyond-int64": 1e20,
    "beyond-int64-negative": -(2.0**63) * 1.5,
    "at-int64": 2.0**63,
    "large": 1e21,
    "largest": 1.7976931348623157e308,
    "minus-zero": -0.0,
    "nan": float("nan"),
    "infinite": float("inf"),
    "decimal": Decimal128("12345678901234567890.12345"),
    "decimal-beyond-int64": Decimal128("1E+19"),
    "text": "text",
    "empty": "",
    "digits": "007",
    "unicode": 'żółw 🐢 \u2028 \u007f \\ "',
    "nul": "a\u0000b",
    "date": datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC),
    "old-date": datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    "oid": ObjectId("65f000000000000000000001"),
    "uuid": Binary.from_uuid(UUID("12345678-1234-5678-1234-567812345678")),
    "bytes": b"\x00\xff",
    "list": [1, "two", None, [3.5]],
    "document": {"a": {"b": [1, {"c": "ü\u0000"}]}, "when": datetime(2024, 1, 1, tzinfo=UTC), "n": Int64(2**60)},
}

COLUMNS = {"id": "string", "s": "string", "n": "number", "b": "boolean", "j": "json"}
SCHEMA = {
    "value": {"tableName": "value", "columns": {c: {"type": t} for c, t in COLUMNS.items()}, "primaryKey": ["id"]}
}
MAPPINGS = {"value": {"collection": "values", "fields": {"id": "_id", "s": "v", "n": "v", "b": "v", "j": "v"}}}


def test_every_value_in_every_column_is_shown(database: Db, serve: Serve, zero: Callable[..., Zero]) -> None:
    database["values"].insert_many([{"_id": f"copied-{name}", "v": value} for name, value in VALUES.items()])
    database["values"].insert_one({"_id": "copied-missing"})
    app = zero(serve(SCHEMA, MAPPINGS), SCHEMA)
    client = app.client()
    wait_same(client, database, SCHEMA, MAPPINGS)

    database["values"].insert_many([{"_id": f"streamed-{name}", "v": value} for name, value in VALUES.items()])
    wait_same(client, database, SCHEMA, MAPPINGS)

    for name, value in VALUES.items():
        database["values"].update_one({"_id": "copied-missing"}, {"$set": {"v": value, "was": name}})
    database["values"].update_one({"_id": "copied-text"}, {"$unset": {"v": ""}})
    database["values"].delete_one({"_id": "copied-true"})
    wait_same(client, database, SCHEMA, MAPPINGS)
    assert app.cache.exit_code() is None


def test_polymorphic_collection_moves_rows_between_tables(
    database: Db, serve: Serve, zero: Callable[..., Zero]
) -> None:
    columns = {"id": {"type": "string"}, "text": {"type": "string", "optional": True}}
    schema = {name: {"tableName": name, "columns": columns, "primaryKey": ["id"]} for name in ("user", "system")}
    mappings = {name: {"collection": "messages", "filter": {"t": name}, "fields": {"id": "_id"}} for name in schema}
    database.messages.insert_many(
        [{"_id": str(n), "t": ("user", "system", "other")[n % 3], "text": str(n)} for n in range(9)]
    )
    client = zero(serve(schema, mappings), schema).client()
    wait_same(client, database, schema, mappings)

    database.messages.update_one({"_id": "0"}, {"$set": {"t": "system"}})  # from one table to the other
    database.messages.update_one({"_id": "1"}, {"$set": {"t": "other"}})  # out of both
    database.messages.update_one({"_id": "2"}, {"$set": {"t": "user"}})  # into one
    database.messages.delete_one({"_id": "3"})
    wait_same(client, database, schema, mappings)


def test_random_writes_during_initial_sync_are_shown(
    mongo: Client, database: Db, serve: Serve, zero: Callable[..., Zero]
) -> None:
    collections = ["alpha", "beta", "gamma"]
    schema, mappings = schema_of(collections), mappings_of(collections)
    with Writer(mongo, database.name, collections) as writer:
        writer.seed(300)
        process = serve(schema, mappings)
        writer.start(1200)  # from before the initial sync until after it
        client = zero(process, schema).client()
        writer.wait()
    wait_same(client, database, schema, mappings)
