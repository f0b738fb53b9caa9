"""In a stream over the whole database, mongod drops the changes that no table needs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.chance import chance
from tests.support.compare import assert_same
from tests.support.mongod import Client, ReplicaSet
from tests.support.types import Db, Follow, Serve
from zmsd.mongodb.content_reader import Watched
from zmsd.mongodb.feed import DatabaseFeed
from zmsd.mongodb.source import Source

FILTERS = [{"kind": {"$in": ["a", "b"]}}, {"kind": {"$exists": False}, "deep.x": 1}]


def kinds_read(
    replica_set: ReplicaSet, database: Db, write: Callable[[], object], images: str
) -> list[tuple[str, Any]]:
    """Return (operation, _id) of the events that some writes cause."""
    source = Source(replica_set.uri(database.name), database.name)
    watched = {"c": Watched(None, filters=FILTERS), "all": Watched(None)}
    source.prepare(watched, images)
    begin = source.operation_time()
    write()
    end = source.operation_time()
    found = []
    with DatabaseFeed(source, watched, begin) as feed:
        while feed.progress < end:
            pieces = feed.read()
            events = [event for piece in pieces.parts for event in piece.events] if pieces else []
            found += [(event.kind, event.document_id) for event in events]
    source.close()
    return found


@pytest.mark.images
def test_server_drops_only_changes_outside_all_filters(replica_set: ReplicaSet, database: Db) -> None:
    database.create_collection("c")
    database.create_collection("all")
    documents = {
        1: {"kind": "a"},
        2: {"kind": "z"},
        3: {"deep": {"x": [0, 1]}},
        4: {"deep": {"x": 2}},
        5: {"kind": None},
    }

    def write() -> None:
        for key, document in documents.items():
            database.c.insert_one({"_id": key, **document})
        database["all"].insert_one({"_id": 6})
        database.c.update_many({}, {"$set": {"n": 1}})
        database.c.update_one({"_id": 1}, {"$set": {"kind": "z"}})  # it leaves
        database.c.update_one({"_id": 1}, {"$set": {"n": 2}})
        database.c.update_one({"_id": 2}, {"$set": {"kind": "b"}})  # it comes
        database.c.delete_many({})

    assert kinds_read(replica_set, database, write, "auto") == [
        *[("insert", 1), ("insert", 3), ("insert", 6), ("update", 1), ("update", 3)],
        *[("update", 1), ("update", 2), ("delete", 2), ("delete", 3)],
    ]


def test_server_keeps_changes_without_images(replica_set: ReplicaSet, database: Db) -> None:
    database.create_collection("c")

    def write() -> None:
        database.c.insert_many([{"_id": 1, "kind": "a"}, {"_id": 2, "kind": "z"}])
        database.c.update_many({}, {"$set": {"n": 1}})
        database.c.delete_many({})

    changes = [("update", 1), ("update", 2), ("delete", 1), ("delete", 2)]
    assert kinds_read(replica_set, database, write, "off") == [("insert", 1), *changes]


@pytest.mark.parametrize("away", [False, True])
def test_filtered_stream_of_a_chat_is_exact(
    away: bool, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """The rows are correct live, and for a client that resumes from before the change log."""
    database.messages.insert_many({"_id": n, "kind": "user", "likes": n} for n in range(20))
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": "collection" if away else "database"}})
    client = follow(zmsd)
    if away:
        client.close()
    choose = chance(1)
    with mongo.start_session() as session:
        for _ in range(300):
            key, kind = {"_id": choose.randrange(20)}, choose.choice(["user", "system", "image", "draft", None])
            if choose.random() < 0.2:
                database.messages.delete_one(key, session=session)
            elif choose.random() < 0.5:
                database.messages.update_one(key, {"$inc": {"likes": 1}}, session=session)
            else:
                database.messages.update_one(key, {"$set": {"kind": kind, "text": "x"}}, upsert=True, session=session)
        database.users.insert_one({"_id": "end"}, session=session)
        if away:
            assert zmsd.stop() == 0
            client = follow(zmsd.start(), replica=client.replica, wait=False)
        assert session.operation_time is not None
        client.wait_watermark(session.operation_time)
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
