"""A feed that changes from streams of collections to one stream and back, while a real mongod is written to."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Self
from urllib.parse import urlencode

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.mongod import ReplicaSet
from tests.support.sources import prepared
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR, wait_until
from tests.support.websocket import WebSocket
from zmsd.mongodb import feed as feeds
from zmsd.mongodb.content_reader import Watched
from zmsd.mongodb.feed import AdaptiveFeed, DatabaseFeed, Feed
from zmsd.mongodb.source import Source

WATCHED = {"a": Watched(None), "b": Watched(None)}
CHANGES = 30
"""Changes from one kind of feed to the other."""


@pytest.fixture
def source(replica_set: ReplicaSet, database: Db) -> Iterator[Source]:
    with prepared(replica_set, database, WATCHED) as source:
        yield source


class Writer(threading.Thread):
    """Inserts single documents and small transactions until it is stopped; counts the documents.

    A context manager: it ends with ``stop``.
    """

    def __init__(self, database: Db) -> None:
        super().__init__(daemon=True)
        self.database = database
        self.count = 0
        self._stop_writing = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop_writing.set()
        self.join()

    def run(self) -> None:
        rng = random.Random(8)
        while not self._stop_writing.wait(0.002):
            size = rng.choice([1, 1, 1, 1, 2, 7])
            names = [rng.choice("ab") for _ in range(size)]
            if size == 1:
                self.database[names[0]].insert_one({"_id": self.count})
            else:
                with self.database.client.start_session() as session, session.start_transaction():
                    for number, name in enumerate(names):
                        self.database[name].insert_one({"_id": self.count + number}, session=session)
            self.count += size


class Transactions:
    """Transactions as read from a feed: the documents' ids by position. Fails if a part is out of order."""

    def __init__(self) -> None:
        self.ids: dict[int, list[Any]] = {}
        self.events = 0
        self._open: int | None = None

    def read(self, feed: Feed) -> int:
        """Read the next batch. Return the number of all events so far."""
        batch = feed.read()
        for part in batch.parts if batch else ():
            assert part.first == (self._open is None)
            assert part.position == self._open if self._open else part.position > max(self.ids, default=0)
            self._open = None if part.last else part.position
            self.ids.setdefault(part.position, []).extend(event.document_id for event in part.events)
            self.events += len(part.events)
        return self.events


def test_changes_between_streams_lose_and_repeat_nothing(
    source: Source, database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_CALM_SECONDS", 0.02)
    monkeypatch.setattr(feeds, "_CALM_EVENTS", 10**6)
    begin = source.operation_time()
    is_open = threading.Event()
    found = Transactions()
    live = AdaptiveFeed(source, WATCHED, begin, catch_up_is_open=is_open.is_set)
    with closing(live) as feed, Writer(database) as writer:
        for number in range(CHANGES):
            (is_open.clear if number % 2 else is_open.set)()
            kind, end = type(feed._feed), time.monotonic() + 30 * FACTOR
            while type(feed._feed) is kind:
                found.read(feed)
                assert time.monotonic() < end, f"change {number}"
        writer.stop()
        wait_until(lambda: found.read(feed) >= writer.count, "the rest", 30)

    again = Transactions()
    with closing(DatabaseFeed(source, WATCHED, begin)) as one_stream:
        wait_until(lambda: again.read(one_stream) >= writer.count, "all of it again", 30)
    assert found.ids == again.ids
    assert sorted(itertools.chain.from_iterable(found.ids.values())) == list(range(writer.count))
    assert any(len(ids) == 7 for ids in found.ids.values()), "a transaction of seven arrived whole"


def test_daemon_reads_one_stream_while_a_client_catches_up(database: Db, serve: Serve, follow: Follow) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": "collection"}})
    client = follow(zmsd)
    client.close()
    database.users.insert_many([{"_id": f"u{number}", "name": "x" * 50_000} for number in range(400)])
    zmsd.kill()
    zmsd.start()  # its log begins here

    def scope() -> str:
        found: str = json.loads(zmsd.get("/status.json")[1])["feed_scope"]
        return found

    assert scope() == "collection"
    version = client.replica.version
    late = WebSocket(zmsd.port, receive_buffer=4096)
    try:
        query = urlencode({"appID": "x", "shardNum": "0", "lastWatermark": version, "replicaVersion": version})
        late.upgrade(f"/changes/v0/stream?{query}", {})  # and never reads, so that its catch-up feed stays open
        wait_until(lambda: scope() == "database", "one stream is read", 30)
    finally:
        late.abort()
    wait_until(lambda: scope() == "collection", "each collection is read again", 60)
