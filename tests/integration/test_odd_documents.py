"""Rare documents: an ``_id`` that is a double, a key that changes only its type, bytes that are not valid BSON."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import datetime
from typing import Any

import pytest
from bson import Decimal128, ObjectId

from tests.integration.chat import named, table
from tests.support.client import ChangeSourceClient, watermark_of
from tests.support.documents import DEPRECATED, broken, of_type
from tests.support.mongod import Client, ReplicaSet
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until

SCHEMA = named(a=table(id="string", n="number"), end=table(id="string"))
END = {"end": {"collection": "ends", "fields": {"id": "_id"}}}
BY_ID = {**END, "a": {"collection": "a", "fields": {"id": "_id"}}}
BY_CODE = {**END, "a": {"collection": "a", "fields": {"id": "code"}}}
scopes = pytest.mark.parametrize("scope", ["collection", "database"])


def wait_end(database: Db, client: ChangeSourceClient, name: str = "end", timeout: float = 30) -> None:
    database.ends.insert_one({"_id": name})
    client.wait_for(lambda replica: (name,) in replica.rows["end"], f"all before {name}", timeout)


KINDS = [2.5, 2.0, -0.0, float("nan"), Decimal128("7.5"), Decimal128("0E+3"), Decimal128("NaN"), Decimal128("1E+6000")]


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("restart", [False, True], ids=["client", "daemon"])
def test_position_after_a_change_with_a_rare_id_resumes(
    restart: bool, kind: Any, database: Db, serve: Serve, follow: Follow
) -> None:
    """The resume token of such an ``_id`` cannot be read without its type bits."""
    zmsd = serve(SCHEMA, BY_ID)
    client = follow(zmsd)
    database.a.insert_one({"_id": kind, "n": 0})
    first = watermark_of(database.client.admin.command("ping")["operationTime"])

    def checkpoint() -> bool:
        database.a.update_one({}, {"$inc": {"n": 1}})
        with contextlib.closing(sqlite3.connect(zmsd.directory / "watermarks.db")) as store:
            ((newest,),) = store.execute("SELECT max(watermark) FROM checkpoint")
        return newest is not None and newest > first

    wait_until(checkpoint, "a checkpoint is made of its change")
    wait_end(database, client, "before")
    if restart:
        zmsd.kill()
        zmsd.start()
    else:
        client.hang_up()
    database.a.update_one({}, {"$set": {"n": -1}})
    wait_end(database, client)
    assert client.replica.reset_required is None
    assert [row["n"] for row in client.rows("a").values()] == [-1]


@scopes
@pytest.mark.parametrize("kind", [float("nan"), {"k": float("nan")}], ids=["id", "inside"])
def test_id_with_nan_is_followed(
    kind: Any, scope: str, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    client = follow(serve(SCHEMA, BY_CODE, settings={"feed": {"scope": scope}}))
    with mongo.start_session() as session, session.start_transaction():
        database.a.insert_one({"_id": kind, "code": "x", "n": 1}, session=session)
        database.a.update_one({}, {"$set": {"code": "y"}}, session=session)
    wait_end(database, client)
    assert set(client.rows("a")) == {("y",)}


@scopes
def test_documents_that_swap_keys_with_changed_number_types_are_followed(
    scope: str, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """2 and 2.0 are the same key for Zero."""
    schema = named(a=table(id="number", name="string"), end=table(id="string"))
    mappings = {**END, "a": {"collection": "a", "fields": {"id": "rank"}}}
    client = follow(serve(schema, mappings, settings={"feed": {"scope": scope}}))
    database.a.insert_many([{"_id": "A", "rank": 1, "name": "A"}, {"_id": "B", "rank": 2, "name": "B"}])
    wait_end(database, client, "before")
    with mongo.start_session() as session, session.start_transaction():
        database.a.update_one({"_id": "A"}, {"$set": {"rank": 2.0}}, session=session)
        database.a.update_one({"_id": "B"}, {"$set": {"rank": 1.0}}, session=session)
    wait_end(database, client)
    assert {key: row["name"] for key, row in client.rows("a").items()} == {(1,): "B", (2,): "A"}


@scopes
@pytest.mark.parametrize("images", ["auto", "off"])
@pytest.mark.parametrize(
    ("old", "new", "key"), [(1, 1.0, "1"), (1, Decimal128("1.00"), "1.00"), (Decimal128("1.0"), Decimal128("1"), "1")]
)
def test_id_replaced_by_an_equal_id_of_another_type_is_followed(
    old: Any, new: Any, key: str, images: str, scope: str, database: Db, serve: Serve, follow: Follow
) -> None:
    """MongoDB allows a replace to change the type and the digits of ``_id``."""
    database.create_collection("a")  # has images from its creation on
    client = follow(serve(SCHEMA, BY_ID, settings={"feed": {"scope": scope, "images": images}}))
    database.a.insert_one({"_id": old, "n": 1})
    wait_end(database, client, "before")
    database.a.replace_one({"_id": old}, {"_id": new, "n": 2})
    wait_end(database, client)
    assert client.rows("a") == {(key,): {"id": key, "n": 2}}


@pytest.mark.parametrize("images", ["auto", "off"])
@pytest.mark.parametrize(
    ("type_", "path", "old", "new"),
    [
        ("number", "_id", datetime(2024, 1, 1), 1704067200000),
        ("string", "_id.t", {"t": "x", "n": 1}, {"n": 1, "t": "x"}),
    ],
    ids=["date", "object"],
)
def test_document_recreated_with_an_equal_key_keeps_its_row(
    type_: str, path: str, old: Any, new: Any, images: str, database: Db, serve: Serve, follow: Follow
) -> None:
    """The new document is inserted before the old one is deleted."""
    schema = {**SCHEMA, **named(a=table(id=type_, n="number"))}
    database.a.insert_one({"_id": old, "n": 1})
    mappings = {**END, "a": {"collection": "a", "fields": {"id": path}}}
    client = follow(serve(schema, mappings, settings={"feed": {"images": images}}))
    database.a.insert_one({"_id": new, "n": 2})
    database.a.delete_one({"n": 1})
    wait_end(database, client)
    assert [row["n"] for row in client.rows("a").values()] == [2]


@pytest.mark.parametrize("how", ["each", "all", "transaction"])
def test_ids_changed_from_text_to_object_ids_keep_their_rows(
    how: str, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """The new document is inserted before the old one is deleted, and both ids are the same text."""
    schema = {**SCHEMA, "by_code": {"tableName": "by_code", **table(id="string")}}
    mappings = {**BY_ID, "by_code": {"collection": "a", "fields": {"id": "code"}}}
    new = [ObjectId() for _ in range(20)]
    database.a.insert_many([{"_id": str(one), "code": str(one)} for one in new])
    client = follow(serve(schema, mappings))
    with mongo.start_session() as session:
        if how == "all":
            database.a.insert_many([{"_id": one, "code": str(one), "n": 1} for one in new])
            client.wait_for(lambda replica: all(row["n"] == 1 for row in replica.rows["a"].values()), "the new ones")
            database.a.delete_many({"_id": {"$type": "string"}})
        else:
            with session.start_transaction() if how == "transaction" else contextlib.nullcontext():
                for one in new:
                    database.a.insert_one({"_id": one, "code": str(one), "n": 1}, session=session)
                    database.a.delete_one({"_id": str(one)}, session=session)
    wait_end(database, client)
    assert [row["n"] for row in client.rows("a").values()] == [1] * 20
    assert len(client.rows("by_code")) == 20


def test_column_within_a_field_that_a_pipeline_uses_has_its_value(database: Db, serve: Serve, follow: Follow) -> None:
    columns = {"id": {"type": "string"}, "address.city": {"type": "string"}, "n": {"type": "number"}}
    schema = {**SCHEMA, "a": {"tableName": "a", "columns": columns, "primaryKey": ["id"]}}
    size = {"$size": {"$objectToArray": "$address"}}
    mappings = {**END, "a": {"source": "a", "pipeline": [{"$set": {"id": "$_id", "n": size}}]}}
    database.a.insert_one({"_id": "x", "address": {"city": "c", "zip": 1}})
    client = follow(serve(schema, mappings))
    database.a.insert_one({"_id": "y", "address": {"city": "d"}})
    wait_end(database, client)
    assert {key: (row["address.city"], row["n"]) for key, row in client.rows("a").items()} == {
        ("x",): ("c", 2),
        ("y",): ("d", 1),
    }


@scopes
@pytest.mark.parametrize("images", ["auto", "off"])
def test_deprecated_types_keep_their_type_in_computed_tables(
    images: str, scope: str, database: Db, serve: Serve, follow: Follow
) -> None:
    """pymongo decodes undefined, symbol and dbPointer as other types, and cannot encode them."""
    columns = {name: {"type": "string", "optional": name != "id"} for name in ("id", "type", "inside")}
    schema = {**SCHEMA, "a": {"tableName": "a", "columns": columns, "primaryKey": ["id"]}}
    types = {"id": "$_id", "type": {"$type": "$v"}, "inside": {"$type": {"$first": "$deep.v"}}}
    mappings = {**END, "a": {"source": "a", "projection": types}}
    database.create_collection("a")
    before = {name: of_type(f"{name} before", name) for name in DEPRECATED}
    database.a.insert_many(before.values())
    client = follow(serve(schema, mappings, settings={"feed": {"scope": scope, "images": images}}))
    database.a.insert_many([of_type(name, name) for name in DEPRECATED])
    database.a.update_many({}, {"$set": {"n": 1}})
    database.a.insert_one({"_id": "string", "v": "x", "deep": [{"v": "x"}]})
    wait_end(database, client)
    expected = {(key.removesuffix(" before"), *found) for (key,), found in _types(client).items()}
    assert expected == {(name, name, name) for name in (*DEPRECATED, "string")}
    assert len(client.rows("a")) == 2 * len(DEPRECATED) + 1


def _types(client: ChangeSourceClient) -> dict[tuple[str], tuple[str, str]]:
    return {key: (row["type"], row["inside"]) for key, row in client.rows("a").items()}


def test_reject_reasons_with_values_share_one_metric(database: Db, serve: Serve, follow: Follow) -> None:
    zmsd = serve(SCHEMA, {**END, "a": {"source": "a", "projection": {"id": "$_id", "n": {"$toInt": "$text"}}}})
    client = follow(zmsd)
    names = [f"{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(100)]
    database.a.insert_many([{"_id": name, "text": f"Hello {name}, it's secret"} for name in names])
    wait_end(database, client)
    lines = [line for line in zmsd.get("/metrics")[1].splitlines() if "evaluation failed" in line]
    assert len(lines) == 1
    assert lines[0].endswith(" 100")
    assert "secret" not in lines[0]


@scopes
def test_invalid_bson_is_reported_and_nothing_is_lost(
    scope: str, forgetful: ReplicaSet, serve: Serve, follow: Follow
) -> None:
    mappings = {**END, "a": {"collection": "a", "fields": {"id": "_id", "n": "v"}}}
    with forgetful.client() as mongo:
        zmsd = serve(SCHEMA, mappings, settings={"feed": {"scope": scope}}, uri=forgetful.uri("odd"))
        client = follow(zmsd)
        mongo.odd.a.insert_one(broken("x"))
        (said, *_) = zmsd.wait_log("not valid BSON.*replace or delete it")
        assert "collection a " in said
        wait_until(lambda: "not valid BSON" in zmsd.get("/readyz")[1], "it is not ready, and says why")
        mongo.odd.a.delete_one({"_id": "x"})
        # Retries are 10 s apart, and one may come before MongoDB has forgotten the document.
        wait_end(mongo.odd, client, timeout=90)
        assert client.rows("a") == {}
