"""After each batch of random writes, the replica, made by the stream alone, equals what mongod makes of the
collections: tables of plain and computed mappings, with one row per document, several, or none."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from bson import Timestamp
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure

from tests.integration.chat import named, table
from tests.support.chance import chance
from tests.support.client import ChangeSourceClient
from tests.support.mongod import Client, ReplicaSet
from tests.support.types import Db, Follow, Serve
from zmsd.commands.strict_tables import Key, Row

Doc = dict[str, Any]

BATCHES = 8
WRITES = 40

SCHEMA = named(
    item=table(id="string", kind="string", n="number", x="json"),
    ratio=table(id="string", ratio="number", label="string"),
    coded=table(id="string", item="string", n="number"),
    line=table(id="string", order="string", at="number", sku="string"),
    profile=table(id="string", name="string", tags="json"),
    bare=table(id="string", name="string"),
)
MAPPINGS: dict[str, Any] = {
    "item": {
        "collection": "items",
        "filter": {"kind": {"$in": ["a", "b"]}, "gone": {"$exists": False}},
        "fields": {"id": "_id", "kind": "kind", "n": "n", "x": "deep.x"},
    },
    # Its expression fails where d is 0.
    "ratio": {
        "source": "items",
        "filter": {"$or": [{"n": {"$gt": 3}}, {"kind": {"$regex": "^c"}}]},
        "projection": {
            "id": "$_id",
            "ratio": {"$divide": ["$n", "$d"]},
            "label": {"$concat": ["$kind", "-", {"$toString": "$n"}]},
        },
    },
    # Its key moves.
    "coded": {"source": "items", "filter": {"code": {"$type": "string"}}, "fields": {"id": "code", "item": "_id"}},
    "line": {
        "source": "orders",
        "pipeline": [
            {"$match": {"open": {"$ne": False}}},
            {"$unwind": {"path": "$lines", "includeArrayIndex": "at"}},
            {"$project": {
                "_id": 0,
                "id": {"$concat": ["$_id", "-", {"$toString": "$at"}]},
                "order": "$_id",
                "at": 1,
                "sku": "$lines.sku",
            }},
        ],
    },
    "profile": {
        "source": "people",
        "pipeline": [{"$replaceRoot": {"newRoot": {"$mergeObjects": ["$profile", {"id": "$_id"}]}}}],
    },
    "bare": {"source": "people", "pipeline": [{"$replaceWith": "$profile"}, {"$set": {"id": "$name"}}]},
}  # fmt: skip
COLLECTIONS = ("items", "orders", "people")
# tables that need no document before a change
FROM_ID = ("item", "ratio")


class Writes:
    """Writes at random into the collections, one write after the other."""

    def __init__(self, client: Client, database: Db, seed: int) -> None:
        for name in COLLECTIONS:
            database[name].insert_one({"_id": "first"})
        self._client = client
        self._database = database
        self._random = chance(seed)
        self._number = 0

    def batch(self) -> Timestamp:
        """Make some writes, and one that every table of items shows; return the position after them."""
        with self._client.start_session() as session:
            for _ in range(WRITES):
                if self._random.random() < 0.2:
                    with session.start_transaction():
                        for _ in range(self._random.randint(2, 6)):
                            self._write(session)
                else:
                    self._write(session)
            self._number += 1
            self._database.items.insert_one({"_id": f"end{self._number}", "kind": "a"}, session=session)
            assert session.operation_time is not None
            return session.operation_time

    def _write(self, session: ClientSession) -> None:
        choose = self._random
        name = choose.choice(COLLECTIONS)
        collection = self._database[name]
        key = {"_id": f"{name}{choose.randrange(12)}"}
        make = getattr(self, f"_{name}")
        document = make(key["_id"])
        kind = choose.random()
        if kind < 0.2:
            collection.delete_one(key, session=session)
        elif kind < 0.4:
            collection.replace_one(key, document, upsert=True, session=session)
        elif kind < 0.6:
            some = dict(choose.sample([*document.items()], choose.randint(1, len(document))))
            collection.update_one(key, {"$set": some}, upsert=True, session=session)
        elif kind < 0.7:
            names = choose.sample(["kind", "code", "n", "open", "lines", "profile", "gone"], 2)
            collection.update_one(key, {"$unset": dict.fromkeys(names, "")}, session=session)
        elif kind < 0.8:
            collection.update_many({}, {"$inc": {"n": 1}}, session=session)
        elif name == "orders":
            change = {"$push": {"lines": document["lines"][0]}} if kind < 0.9 else {"$pop": {"lines": -1}}
            collection.update_one({**key, "lines": {"$type": "array"}}, change, session=session)
        else:
            self._number += 1
            new = f"new{self._number}"
            collection.insert_one({"_id": new, **make(new)}, session=session)

    def _items(self, key: str) -> Doc:
        choose = self._random
        document: Doc = {"kind": choose.choice("abc"), "n": choose.randrange(8), "d": choose.choice([0, 1, 2, 4.0])}
        document["code"] = choose.choice([f"{key}{choose.choice('xyz')}", None, 5])
        document["deep"] = choose.choice([{"x": [1, {"y": None}]}, [{"x": 1}, {"x": "two"}], {}, 3])
        document["gone"] = True
        return {name: value for name, value in document.items() if choose.random() < (0.1 if name == "gone" else 0.9)}

    def _orders(self, key: str) -> Doc:
        choose = self._random
        count = choose.randint(1, 4)
        lines = [
            {"sku": sku} if choose.random() < 0.9 else choose.choice([{}, 7]) for sku in choose.sample("pqrs", count)
        ]
        return {"lines": lines, "open": choose.random() < 0.8, "n": 0}

    def _people(self, key: str) -> Doc:
        choose = self._random
        profile = {
            "name": f"{key} {choose.choice('xyz')}",
            "tags": choose.choice([[], ["a", 1], None]),
            "id": "not this",
        }
        return {"profile": choose.choice([profile, profile, profile, None, "none"]), "n": 0}


def expected_rows(database: Db, name: str) -> dict[Key, Row]:
    """Return what mongod makes of the documents; a document on which it fails has no row."""
    mapping, columns = MAPPINGS[name], SCHEMA[name]["columns"]
    stages = [{"$match": mapping["filter"]}] if "filter" in mapping else []
    stages += mapping.get("pipeline", [])
    if "pipeline" not in mapping:
        named = mapping.get("projection") or {column: f"${path}" for column, path in mapping["fields"].items()}
        stages.append({"$project": {column: named.get(column, f"${column}") for column in columns}})
    collection = database[mapping.get("source", mapping.get("collection"))]
    try:
        results = list(collection.aggregate(stages))
    except OperationFailure:
        results = []
        for document in collection.find({}, {"_id": 1}):
            with contextlib.suppress(OperationFailure):
                results += collection.aggregate([{"$match": document}, *stages])
    rows: dict[Key, Row] = {}
    for result in results:
        row = {column: _value(result.get(column), kind["type"]) for column, kind in columns.items()}
        if row["id"] is not None:
            assert (row["id"],) not in rows, f"a bad test: {row['id']} twice in {name}"
            rows[row["id"],] = row
    return rows


def _value(value: Any, kind: str) -> Any:
    """Return the text of a value, of the few types that are written here."""
    fits = {"string": str, "number": int | float, "json": object}[kind]
    return json.loads(json.dumps(value)) if isinstance(value, fits) and not isinstance(value, bool) else None


def compare(database: Db, client: ChangeSourceClient, names: tuple[str, ...]) -> None:
    for name in names:
        expected, actual = expected_rows(database, name), client.rows(name)
        differing = [key for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key)]
        assert not differing, [(name, key, actual.get(key), expected.get(key)) for key in differing[:5]]


def run(writes: Writes, database: Db, client: ChangeSourceClient, names: tuple[str, ...]) -> None:
    compare(database, client, names)
    for _ in range(BATCHES):
        client.wait_watermark(writes.batch())
        compare(database, client, names)
    assert all(client.rows(name) for name in names), "there is something in every table"
    assert client.connections == 2, "one for the copy, one that streams"


def chosen(names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {name: SCHEMA[name] for name in names}, {name: MAPPINGS[name] for name in names}


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_random_writes_with_images_match_mongod(
    scope: str, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    writes = Writes(mongo, database, seed=1)
    writes.batch()
    client = follow(serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope}}))
    run(writes, database, client, tuple(SCHEMA))


def test_random_writes_without_images_match_mongod(mongo: Client, database: Db, serve: Serve, follow: Follow) -> None:
    """Only tables whose rows follow from _id; other tables are refused."""
    writes = Writes(mongo, database, seed=2)
    writes.batch()
    client = follow(serve(*chosen(FROM_ID), settings={"feed": {"images": "off"}}))
    run(writes, database, client, FROM_ID)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Yield a replica set with access control."""
    with ReplicaSet(tmp_path_factory.mktemp("guarded"), auth=True) as replicas:
        yield replicas


@pytest.mark.parametrize("images", [True, False])
def test_random_writes_for_a_read_only_user_match_mongod(
    images: bool, guarded: ReplicaSet, serve: Serve, follow: Follow
) -> None:
    """Images that an administrator has switched on, and none."""
    name = "guarded_images" if images else "guarded"
    user = (name, "secret")
    names = tuple(SCHEMA) if images else FROM_ID
    with guarded.client() as admin:
        database = admin[name]
        for collection in COLLECTIONS:
            database.create_collection(collection, changeStreamPreAndPostImages={"enabled": images})
        admin.admin.command("createUser", user[0], pwd=user[1], roles=[{"role": "read", "db": name}])
        writes = Writes(admin, database, seed=3)
        writes.batch()
        client = follow(serve(*chosen(names), uri=guarded.uri(name, user)))
        run(writes, database, client, names)
