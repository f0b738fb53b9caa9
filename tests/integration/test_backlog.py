"""Reading ahead in a backlog loses, repeats and reorders nothing."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support.documents import broken
from tests.support.mongod import ReplicaSet
from tests.support.sources import prepared
from tests.support.types import Db
from tests.support.wait import wait_until
from zmsd.errors import EventUnreadable
from zmsd.mongodb.change_cursor import BATCH, ChangeCursor
from zmsd.mongodb.content_reader import Watched
from zmsd.mongodb.feed import DatabaseFeed
from zmsd.mongodb.sequencer import TransactionPart
from zmsd.mongodb.source import Source

MANY = 6 * BATCH + 50
WATCHED = {"a": Watched(None), "b": Watched(None)}


@pytest.fixture
def source(replica_set: ReplicaSet, database: Db) -> Iterator[Source]:
    with prepared(replica_set, database, WATCHED) as source:
        yield source


def write(database: Db) -> list[int]:
    """Insert single documents, with a transaction of more than two batches among them, and return the ids in order."""
    database.a.insert_many([{"_id": number} for number in range(2 * BATCH)])
    middle = range(2 * BATCH, 4 * BATCH + 300)
    with database.client.start_session() as session, session.start_transaction():
        for number in middle:
            database["ab"[number % 2]].insert_one({"_id": number}, session=session)
    database.b.insert_many([{"_id": number} for number in range(middle.stop, MANY)])
    return list(range(MANY))


def read(feed: DatabaseFeed, end: int) -> list[TransactionPart]:
    found: list[TransactionPart] = []
    while feed.progress < end:
        batch = feed.read()
        found += batch.parts if batch else []
    return found


def ids(parts: list[TransactionPart]) -> list[Any]:
    return [event.document_id for part in parts for event in part.events]


def cursors(database: Db) -> int:
    return int(database.command("serverStatus")["metrics"]["cursor"]["open"]["total"])


def asked_for(database: Db) -> int:
    return int(database.command("serverStatus")["opcounters"]["getmore"])


def wait_asked(database: Db, before: int) -> None:
    wait_until(lambda: asked_for(database) > before, "the next batch is asked for while this one is worked on")


def under_way() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_read_ahead_with_broken_connections_returns_each_event_once(
    replica_set: ReplicaSet, source: Source, database: Db
) -> None:
    begin = source.operation_time()
    wanted = write(database)
    with DatabaseFeed(source, WATCHED, begin) as feed:
        failed = replica_set.failed()
        found: list[TransactionPart] = []
        end = source.operation_time()
        while feed.progress < end:
            with replica_set.failing("getMore", times=1, closeConnection=True):
                for batch in (feed.read(), feed.read(), feed.read()):
                    found += batch.parts if batch else []
        assert replica_set.failed() > failed + 1
    assert ids(found) == wanted
    assert len({part.position for part in found if part.events}) == len(wanted) - (2 * BATCH + 300) + 1
    for before, part in itertools.pairwise(found):
        assert part.first == before.last
        assert (part.position == before.position) == (not part.first)


def test_feed_closed_during_read_ahead_leaves_no_cursor(source: Source, database: Db) -> None:
    begin = source.operation_time()
    write(database)
    open_before = cursors(database)
    for batches in range(1, 8):
        before = asked_for(database)
        with DatabaseFeed(source, WATCHED, begin) as feed:
            feed.read()
            wait_asked(database, before)
            for _ in range(batches):
                feed.read()
        assert not under_way()
    wait_until(lambda: cursors(database) == open_before, "the cursors are closed")


def test_unreadable_event_within_read_ahead_is_reported_in_order(source: Source, database: Db) -> None:
    begin = source.operation_time()
    bad = {BATCH + 1, 2 * BATCH + 500, 2 * BATCH + 501}
    database.a.insert_many([broken(number) if number in bad else {"_id": number} for number in range(4 * BATCH)])
    got: list[int] = []
    unreadable = 0
    with closing(ChangeCursor(source, "a", begin, [], ahead=True)) as cursor:
        while len(got) < 4 * BATCH:
            try:
                batch = cursor.read()
            except EventUnreadable:
                unreadable += 1
                batch = cursor.read_without_documents()
            got += [event.document_id for event in batch.events]
    assert got == list(range(4 * BATCH))
    assert unreadable
