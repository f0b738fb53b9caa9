"""The effect of mapping documents: the common forms, computed rows, keys that change, and refused mappings."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import datetime
from typing import Any

import pytest
from bson import Code, Decimal128, MaxKey, MinKey, ObjectId, Regex

from tests.integration.chat import named, table
from tests.support.client import ChangeSourceClient
from tests.support.daemon import run_zmsd
from tests.support.mongod import Client
from tests.support.types import Db, Follow, Serve
from zmsd.commands.strict_replica import Change
from zmsd.schema.restrictions import EXPRESSIONS, EXPRESSIONS_SINCE, QUERIES, STAGES, in_expression, in_pipeline


def arrivals(client: ChangeSourceClient, count: int) -> list[Change]:
    """Return the first ``count`` changes after the initial sync; more than these is an error."""
    client.wait_for(lambda replica: sum(len(one.changes) for one in replica.transactions) >= count, f"{count} changes")
    changes = [change for one in client.transactions() for change in one.changes]
    assert len(changes) == count, changes
    return changes


def test_polymorphic_collection_fills_its_tables(database: Db, serve: Serve, follow: Follow) -> None:
    """The main form: source, filter and projection."""
    columns = {"roomId": "string", "contents": "json", "createdAt": "number"}
    schema = {
        name: {
            "tableName": name,
            "columns": {"_id": {"type": "string"}, **{column: {"type": kind} for column, kind in columns.items()}},
            "primaryKey": ["_id"],
        }
        for name in ("userMessage", "systemMessage", "oldMessage")
    }
    projection = {"_id": 1, "roomId": 1, "contents": 1, "createdAt": "$meta.created"}
    filters = {
        "userMessage": {"t": {"$in": ["USER", "IMAGE"]}, "hidden": {"$ne": True}},
        "systemMessage": {"t": "SYSTEM"},
        "oldMessage": {"t": {"$exists": False}},
    }
    mappings = {
        name: {"source": "messages", "filter": chosen, "projection": projection} for name, chosen in filters.items()
    }
    message = {"roomId": ObjectId(b"r" * 12), "contents": [{"type": "p"}], "meta": {"created": datetime(2024, 1, 1)}}
    database.messages.insert_many(
        [{"_id": f"{kind}", "t": kind, **message} for kind in ("USER", "IMAGE", "SYSTEM", "?")]
    )
    database.messages.insert_one({"_id": "old", **message})
    client = follow(serve(schema, mappings))
    assert [set(client.rows(name)) for name in filters] == [{("USER",), ("IMAGE",)}, {("SYSTEM",)}, {("old",)}]
    assert client.rows("oldMessage")["old",] == {
        "_id": "old",
        "roomId": "72" * 12,
        "contents": [{"type": "p"}],
        "createdAt": 1704067200000,
    }
    database.messages.update_one({"_id": "old"}, {"$set": {"t": "SYSTEM"}})
    database.messages.update_one({"_id": "USER"}, {"$set": {"hidden": True}})
    assert {(change.tag, change.table, change.key) for change in arrivals(client, 3)} == {
        ("delete", "oldMessage", ("old",)),
        ("insert", "systemMessage", ("old",)),
        ("delete", "userMessage", ("USER",)),
    }


ITEMS = named(item=table(id="string", n="number"))


def test_extended_json_literals_match_as_bson(database: Db, serve: Serve, follow: Follow) -> None:
    owner, since = ObjectId(), datetime(2024, 5, 6)
    condition = {"owner": {"$oid": str(owner)}, "at": {"$gte": {"$date": "2024-05-06T00:00:00Z"}}}
    mappings = {"item": {"collection": "items", "fields": {"id": "_id"}, "filter": condition}}
    database.items.insert_many(
        [
            {"_id": "mine", "owner": owner, "at": since},
            {"_id": "text", "owner": str(owner), "at": since},
            {"_id": "early", "owner": owner, "at": datetime(2024, 5, 5)},
        ]
    )
    client = follow(serve(ITEMS, mappings))
    assert set(client.rows("item")) == {("mine",)}
    database.items.update_one({"_id": "text"}, {"$set": {"owner": owner}})
    assert [change.key for change in arrivals(client, 1)] == [("text",)]


def test_operators_of_mongod_are_allowed_or_refused_by_name(mongo: Client) -> None:
    """Also on other versions, by the lists that mongod itself keeps."""
    status = mongo.admin.command("serverStatus")
    version = tuple(map(int, status["version"].split(".")[:2]))
    counters = status["metrics"]["operatorCounters"]
    known = {*counters["expressions"]}
    assert {name for name in known if name.startswith("$_")}, "it lists internal ones"
    allowed = {f"${name}" for since, names in EXPRESSIONS_SINCE.items() if since <= version for name in names.split()}
    # $literal, $first and similar operators are counted as well; some only once they are used.
    assert allowed - known <= {"$literal", "$toHashedIndexKey", "$tsSecond", "$tsIncrement"}
    refused = known - EXPRESSIONS
    assert {name for name in refused if not name.startswith("$_")} == {"$const", "$function", "$meta", "$rand"}
    for name in refused:
        assert list(in_expression({name: 1})), name
    refused = {*counters["match"]} - QUERIES
    assert {name for name in refused if not name.startswith("$_")} == {
        *("$near", "$nearSphere", "$sampleRate", "$text", "$where")
    }
    assert QUERIES - {*counters["match"]} == {"$options"}
    stages = {*status["metrics"]["aggStageCounters"]}
    assert {*STAGES} <= stages
    for name in stages - {*STAGES}:
        assert [key_path for key_path, _ in in_pipeline([{name: {}}])] == [(0, name)]


EXTENDED: dict[str, Any] = {
    "min": ({"$minKey": 1}, MinKey()),
    "max": ({"$maxKey": 1}, MaxKey()),
    "regex": ({"$regularExpression": {"pattern": "^x", "options": "i"}}, Regex("^x", "i")),
    "code": ({"$code": "f()"}, Code("f()")),
    "scoped": ({"$code": "f()", "$scope": {"a": 1}}, Code("f()", {"a": 1})),
    "symbol": ({"$symbol": "x"}, "x"),
    "decimal": ({"$numberDecimal": "1.50"}, Decimal128("1.5")),
}


@pytest.mark.parametrize("operator", ["$eq", "$ne", "$in", "$nin", "$gte", "$lt"])
def test_literals_mean_in_a_filter_what_they_mean_in_find(
    operator: str, database: Db, serve: Serve, follow: Follow
) -> None:
    values = [
        MinKey(),
        MaxKey(),
        Regex("^x", "i"),
        "Xy",
        "x",
        Code("f()"),
        Code("f()", {"a": 1}),
        1.5,
        None,
        {"$oid": 1},
    ]
    database.items.insert_many([{"_id": f"{number}", "v": value} for number, value in enumerate(values)])
    cases = {name: pair for name, pair in EXTENDED.items() if name != "regex" or operator in ("$in", "$nin", "$eq")}
    many = operator in ("$in", "$nin")
    schema = named(**{name: table(id="string") for name in cases})
    mappings = {
        name: {
            "collection": "items",
            "fields": {"id": "_id"},
            "filter": {"v": {operator: [literal] if many else literal}},
        }
        for name, (literal, _) in cases.items()
    }
    client = follow(serve(schema, mappings))
    for name, (_, value) in cases.items():
        found = database.items.find({"v": {operator: [value] if many else value}})
        assert set(client.rows(name)) == {(one["_id"],) for one in found}, name


def test_hexadecimal_ids_become_base64_of_urls(database: Db, serve: Serve, follow: Follow) -> None:
    """zero-sources has such an operator; mongod has none before MongoDB 8."""
    ids = [ObjectId() for _ in range(20)] + [ObjectId("f" * 24), ObjectId("0" * 24)]
    texts = [bytes(range(255 - size, 255)).hex() for size in range(8)]
    database.items.insert_many([*({"_id": one} for one in ids), *({"_id": one} for one in texts), {"_id": None}])
    projection = {"id": {"$toString": "$_id"}, "n": {"$hexToBase64Url": "$_id"}}
    schema = named(item=table(id="string", n="string"))
    client = follow(serve(schema, {"item": {"source": "items", "projection": projection}}))

    def base64(digits: str) -> str:
        return urlsafe_b64encode(bytes.fromhex(digits)).decode().rstrip("=")

    assert {key: row["n"] for (key,), row in client.rows("item").items()} == {
        str(one): base64(str(one)) for one in [*ids, *texts]
    }


def test_document_whose_evaluation_fails_has_no_rows_until_fixed(database: Db, serve: Serve, follow: Follow) -> None:
    mappings = {"item": {"source": "items", "projection": {"id": "$_id", "n": {"$divide": [6, "$d"]}}}}
    database.items.insert_many([{"_id": f"{d}", "d": d} for d in range(4)])
    zmsd = serve(ITEMS, mappings)
    client = follow(zmsd)
    assert {key: row["n"] for (key,), row in client.rows("item").items()} == {"1": 6, "2": 3, "3": 2}
    (line,) = zmsd.log("rejected")
    assert "table=item" in line
    assert "can't $divide by zero" in line
    assert "id=0" in line
    database.items.update_one({"_id": "0"}, {"$set": {"d": 6}})
    database.items.update_one({"_id": "1"}, {"$set": {"d": 0}})
    database.items.update_one({"_id": "2"}, {"$set": {"d": "two"}})
    assert [(change.tag, change.key) for change in arrivals(client, 3)] == [
        ("insert", ("0",)),
        ("delete", ("1",)),
        ("delete", ("2",)),
    ]
    assert len(zmsd.log("rejected")) == 3, "each failure is said, not again for the document before"


CODES = {"item": {"source": "items", "fields": {"id": "code"}, "filter": {"n": {"$gt": 0}}}}


def test_row_whose_key_changes_is_an_update_with_the_old_key(
    mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """The row of the new key is deleted first: zero-cache cannot move a row onto another row."""
    database.items.insert_many([{"_id": 1, "code": "a", "n": 1}, {"_id": 2, "code": "b", "n": 2}])
    client = follow(serve(ITEMS, CODES))
    database.items.update_one({"_id": 1}, {"$set": {"code": "c"}})
    assert [(change.tag, change.old_key, change.key) for change in arrivals(client, 2)] == [
        ("delete", None, ("c",)),
        ("update", ("a",), ("c",)),
    ]
    with mongo.start_session() as session, session.start_transaction():  # two documents change keys
        database.items.update_one({"_id": 1}, {"$set": {"code": "b"}}, session=session)
        database.items.update_one({"_id": 2}, {"$set": {"code": "c"}}, session=session)
    client.wait_for(lambda replica: replica.rows["item"].get(("b",), {}).get("n") == 1, "they have changed")
    assert {key: row["n"] for (key,), row in client.rows("item").items()} == {"b": 1, "c": 2}


def test_documents_with_the_same_key_are_reported(database: Db, serve: Serve, follow: Follow) -> None:
    """The last writer wins."""
    database.items.insert_many([{"_id": 1, "code": "a", "n": 1}, {"_id": 2, "code": "a", "n": 2}])
    zmsd = serve(ITEMS, CODES)
    client = follow(zmsd)
    assert client.rows("item") == {("a",): {"id": "a", "n": 2}}
    (line,) = zmsd.log("rejected.*same key")
    assert "id=2" in line
    database.items.insert_one({"_id": 3, "code": "a", "n": 3})
    client.wait_for(lambda replica: replica.rows["item"]["a",]["n"] == 3, "the last one")


def test_mapping_refused_by_mongod_is_reported_with_position(database: Db, serve: Serve) -> None:
    schema = named(a=table(id="string"), b=table(id="string", n="number"), c=table(id="string"))
    mappings = {
        "a": {"source": "items", "pipeline": [{"$unset": "x"}, {"$set": {"id": {"$substrBytes": 1}}}]},
        "b": {"source": "items", "projection": {"id": "$_id", "n": {"$divide": [1]}}},
        "c": {"source": "items", "filter": {"x": {"$regex": "("}}},
    }
    zmsd = serve(schema, mappings, start=False).start(ready=False)
    (line, *_) = zmsd.wait_log("mongod refuses")
    for path, reason in (
        (r"a.pipeline[1]", "$substrBytes takes exactly 3 arguments"),
        (r"b.projection.n", "$divide takes exactly 2 arguments"),
        (r"c.filter.x", "Regular expression is invalid"),
    ):
        assert f"{path}: mongod refuses it: " in line
        assert reason in line
    assert "mappings.json:8:" in line, "the line of the stage"
    status, text = zmsd.get("/readyz")
    assert status == 503
    assert "a.pipeline[1]" in text


@pytest.mark.parametrize("command", ["run", "check"])
def test_mapping_that_reads_beyond_one_document_is_refused(serve: Serve, command: str) -> None:
    mappings = {"item": {"source": "items", "pipeline": [{"$sort": {"n": 1}}, {"$set": {"n": "$$NOW"}}]}}
    zmsd = serve(ITEMS, mappings, start=False)
    done = run_zmsd(command, "--config", str(zmsd.config_file), cwd=zmsd.directory)
    assert done.returncode == 78
    one, two = done.stderr.splitlines()
    assert "item.pipeline[0].$sort: looks beyond one document" in one
    assert "item.pipeline[1].$set.n: $$NOW changes by itself" in two
