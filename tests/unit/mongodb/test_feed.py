"""Feeds over a scripted MongoDB: the same transactions by each way, and the change from one way to the other."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from threading import Event, Thread
from typing import TypeVar

import pytest
from pymongo.errors import AutoReconnect

from tests.support.wait import wait_until
from tests.unit.mongodb.streams import Oplog, ScriptedSource, T, batch, event, failure, order, read
from zmsd.bson_types import Document
from zmsd.errors import ResumeLost, SourceError, Stopped
from zmsd.mongodb import feed as feeds
from zmsd.mongodb import reader as readers
from zmsd.mongodb import resume_token
from zmsd.mongodb.content_reader import Watched
from zmsd.mongodb.feed import AdaptiveFeed, CollectionFeed, DatabaseFeed, Feed, StreamFeed, open_feed
from zmsd.mongodb.sequencer import TransactionPart

F = TypeVar("F", DatabaseFeed, CollectionFeed, StreamFeed, AdaptiveFeed)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "REFUSED_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(feeds, "AWAIT_MS", 50)


@contextmanager
def reading(kind: type[F], script: ScriptedSource) -> Iterator[F]:
    with closing(kind(script, {"a": Watched(None), "b": Watched(None)}, T)) as feed:
        yield feed


def pieces_of(feed: Feed, enough: Callable[[list[TransactionPart]], bool]) -> list[TransactionPart]:
    parts: list[TransactionPart] = []
    for _ in range(1000):
        found = feed.read()
        parts += found.parts if found else []
        if enough(parts):
            return parts
    raise AssertionError(f"only {parts}")


def test_collection_and_database_feed_return_the_same() -> None:
    events = [event(T + 1, 0, "b"), event(T + 2, 0, "a"), event(T + 2, 1, "b"), event(T + 4, 0, "a")]
    wanted = [
        TransactionPart(T + 1, read(*events[:1]), True, True),
        TransactionPart(T + 2, read(*events[1:3]), True, True),
    ]
    wanted.append(TransactionPart(T + 4, read(*events[3:]), True, True))
    of = {name: [one for one in events if one["ns"]["coll"] == name] for name in "ab"}
    collections = ScriptedSource(
        database=[batch(*order(*events[:3])), batch(*order(events[3]), upto=T + 9)],
        a=[batch(*of["a"])],
        b=[batch(of["b"][0]), batch(of["b"][1])],
    )
    with reading(CollectionFeed, collections) as feed:
        assert pieces_of(feed, lambda parts: len(parts) == 3) == wanted
    with reading(
        DatabaseFeed, ScriptedSource(database=[batch(*events[:3], upto=T + 3), batch(events[3], upto=T + 5)])
    ) as feed:
        assert pieces_of(feed, lambda parts: len(parts) == 3) == wanted


@pytest.mark.parametrize("kind", [CollectionFeed, DatabaseFeed])
def test_progress_is_not_past_unread_events(kind: type[StreamFeed]) -> None:
    content = batch(event(T + 3, 0, "a"), upto=T + 4)
    script = ScriptedSource(database=[batch(upto=T + 2), content, batch(upto=T + 9)], a=[content])
    with reading(kind, script) as feed:
        assert feed.progress >= T
        pieces_of(feed, bool)
        assert feed.progress >= T + 3
        wait_until(lambda: feed.read() and feed.progress >= T + 8, "progress without events")


@pytest.mark.parametrize("kind", [CollectionFeed, DatabaseFeed])
def test_progress_excludes_the_start_position(kind: type[StreamFeed]) -> None:
    """MongoDB answers startAtOperationTime: t with the token of t, also before anything has happened at t. A
    stream that resumes after that token would skip the change that then happens at the very next increment.
    """
    with reading(kind, ScriptedSource(database=[batch(upto=T + 1)])) as feed:
        wait_until(feed.read, "the first batch")
        assert feed.progress == T


def test_unfit_token_within_a_transaction_repeats_it_from_the_start() -> None:
    """The feed begins again at its progress, which is before the transaction that was read in part."""
    script = ScriptedSource(database=[batch(event(T + 1, 0)), failure(280), batch(event(T + 5), upto=T + 6)])
    script.grouped = lambda imaged: True

    def read(feed: Feed) -> None:
        pieces_of(feed, lambda parts: any(part.position == T + 5 for part in parts))

    with reading(DatabaseFeed, script) as feed:
        with pytest.raises(SourceError):
            read(feed)
        assert feed.progress <= T


@pytest.mark.parametrize("kind", [CollectionFeed, DatabaseFeed])
def test_lost_position_is_raised(kind: type[StreamFeed]) -> None:
    def lost(feed: Feed) -> None:
        for _ in range(100):
            feed.read()

    with reading(kind, ScriptedSource(database=[failure(286)])) as feed, pytest.raises(ResumeLost):
        lost(feed)


def test_lost_position_of_one_collection_is_raised() -> None:
    script = ScriptedSource(database=[batch(*order(event(T + 1)))], a=[failure(286)])
    with reading(CollectionFeed, script) as feed, pytest.raises(ResumeLost):
        pieces_of(feed, bool)


@pytest.mark.parametrize("kind", [DatabaseFeed, CollectionFeed, AdaptiveFeed])
def test_closing_a_feed_does_not_set_the_callers_stop_event(kind: type[DatabaseFeed | CollectionFeed]) -> None:
    stop = Event()
    with closing(kind(ScriptedSource(), {}, T, stop)) as feed:
        feed.read()
    assert not stop.is_set()
    with closing(kind(ScriptedSource(), {}, T, stop)) as feed:
        stop.set()
        with pytest.raises(Stopped):
            feed.read()


def test_callers_stop_event_ends_each_feed_that_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_CALM_SECONDS", 0.0)
    is_open, stop = Event(), Event()
    with closing(AdaptiveFeed(Oplog(), {"a": Watched(None)}, T, stop, is_open.is_set)) as feed:
        is_open.set()
        wait_until(lambda: feed.read() and feed.scope == "database", "one stream is read")
        is_open.clear()
        wait_until(lambda: feed.read() and feed.scope == "collection", "each collection is read")
        stop.set()
        with pytest.raises(Stopped):
            feed.read()


def test_closed_feed_leaves_no_thread_and_no_cursor() -> None:
    script = ScriptedSource()
    with reading(CollectionFeed, script) as feed:
        feed.read()
        wait_until(lambda: len(script.opened) == 3, "all streams are open")
    assert sorted(script.killed) == [1, 2, 3]


def test_failing_reader_does_not_block_the_feed() -> None:
    """Its problem is visible on /readyz, and a stop takes effect."""
    script = ScriptedSource(database=[batch(*order(event(T + 1)))], a=[AutoReconnect("away")] * 10_000)
    with reading(CollectionFeed, script) as feed:
        wait_until(lambda: feed.health.problem, "the reader is in trouble")
        reads: list[object] = []

        def read() -> None:
            try:
                reads.extend(feed.read() for _ in range(3))
            except Stopped:
                return

        thread = Thread(target=read, daemon=True)
        thread.start()
        thread.join(2)
        assert len(reads) == 3


@pytest.mark.parametrize(
    ("grouped", "more", "known"),
    [
        (False, {}, True),
        (False, {"txnNumber": 5}, False),
        (False, {"operationType": "dropDatabase"}, False),
        (True, {}, False),
    ],
)
def test_event_outside_transactions_is_complete_at_once(grouped: bool, more: Document, known: bool) -> None:
    """Up to MongoDB 6.0: later versions group TTL deletes, and inserts, which share their time without being in
    a transaction.
    """
    script = ScriptedSource(database=[batch(event(T + 1, **more))])
    script.grouped = lambda imaged: grouped
    with reading(DatabaseFeed, script) as feed:
        (part,) = pieces_of(feed, bool)
        assert part.last == known


@pytest.mark.parametrize("imaged", [True, False])
def test_delete_is_complete_at_once_if_the_server_sent_its_image(imaged: bool) -> None:
    """MongoDB 7.0 groups deletes without images. A document that was looked up does not prove an image."""
    image = {"fullDocumentBeforeChange": {"_id": 1}} if imaged else {}
    script = ScriptedSource(database=[batch(event(T + 1, kind="delete", **image))])
    script.grouped = lambda imaged: not imaged
    with reading(DatabaseFeed, script) as feed:
        (part,) = pieces_of(feed, bool)
        assert part.last == imaged


@pytest.mark.parametrize(
    ("setting", "sharded", "collections", "scope"),
    [
        ("auto", False, 1, "collection"),
        ("auto", False, 10, "collection"),
        ("auto", False, 11, "database"),
        ("auto", True, 1, "database"),
        ("collection", False, 50, "collection"),
        ("collection", True, 1, "collection"),
        ("database", False, 1, "database"),
    ],
)
@pytest.mark.parametrize("grouped", [False, True], ids=["6.0", "6.1 or later"])
def test_auto_scope_is_collection_up_to_ten_collections_on_any_version(
    setting: str, sharded: bool, collections: int, scope: str, grouped: bool
) -> None:
    """``grouped``: writes may share their cluster time, as they may since MongoDB 6.1."""
    script = ScriptedSource()
    script.grouped = lambda imaged: grouped
    script.deployment = replace(script.deployment, sharded=sharded)
    watched = {f"c{number}": Watched(None) for number in range(collections)}
    with closing(open_feed(setting, script, watched, T, Event(), lambda: False)) as feed:
        assert feed.scope == scope


def test_backlog_is_read_by_database_and_then_by_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost or repeated, and transactions stay whole, when one feed replaces the other."""
    monkeypatch.setattr(feeds, "_CALM_SECONDS", 0.05)
    rng = random.Random(5)
    script = Oplog()
    script.deployment = replace(script.deployment, stores_images=True)  # so that the batches are larger
    script.existing = {"a": {}, "b": {}}
    script.grouped = lambda imaged: True
    at = T
    ways: list[type] = []
    got: list[TransactionPart] = []
    with reading(AdaptiveFeed, script) as feed:
        for burst in (1, 9000, 10, 1, 12_000, 3):
            end = len(script.events) + burst
            while len(script.events) < end:
                at += rng.choice([1, 1, 1, 5])
                script.write(at, rng.choice([1] * 50 + [2, 7, 40, 2500 if burst > 1000 else 1]), rng)
            wait_until(lambda: _read(feed, got, ways) and sum(len(p.events) for p in got) == len(script.events), "all")
            wait_until(lambda: _read(feed, got, ways) is CollectionFeed, "it is calm")
    assert [event for part in got for event in part.events] == read(*script.events)
    taken = [kind for kind, _ in itertools.groupby(ways)]
    assert taken == [CollectionFeed, DatabaseFeed, CollectionFeed, DatabaseFeed, CollectionFeed]
    wholes = [part.position for part in got if part.last]
    assert wholes == sorted({resume_token.position_of(one["_id"]) for one in script.events})
    for before, part in itertools.pairwise(got):
        assert part.first == before.last
        assert (part.position == before.position) == (not part.first)


def test_many_small_writes_are_read_by_database_until_few_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_BUSY_SECONDS", 1000.0)
    monkeypatch.setattr(feeds, "_BUSY_EVENTS", 50)
    rng = random.Random(6)
    script = Oplog()
    ways: list[type] = []
    got: list[TransactionPart] = []
    with reading(AdaptiveFeed, script) as feed:
        for number in range(120):
            script.write(T + 1 + number, 1, rng)
            wait_until(lambda: _read(feed, got, ways) and len(got) == len(script.events), "it comes")
            if number == 48:
                assert set(ways) == {CollectionFeed}, "few"
            if number == 90:
                assert ways[-1] is DatabaseFeed
                monkeypatch.setattr(feeds, "_CALM_SECONDS", 0.0)
    assert [event for part in got for event in part.events] == read(*script.events)
    assert all(part.first and part.last for part in got)
    assert [kind for kind, _ in itertools.groupby(ways)] == [CollectionFeed, DatabaseFeed, CollectionFeed]


def test_rate_that_keeps_mongod_busy_does_not_end_the_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_BUSY_EVENTS", 50)
    monkeypatch.setattr(feeds, "_CALM_SECONDS", 0.0)
    monkeypatch.setattr(feeds, "_CALM_EVENTS", 1)
    rng = random.Random(6)
    script = Oplog()
    script.write(T + 1, 60, rng)
    ways: list[type] = []
    got: list[TransactionPart] = []
    with reading(AdaptiveFeed, script) as feed:
        for number in range(20):
            script.write(T + 2 + number, 1, rng)
            wait_until(lambda: _read(feed, got, ways) and sum(len(p.events) for p in got) == len(script.events), "all")
    assert [kind for kind, _ in itertools.groupby(ways)] == [CollectionFeed, DatabaseFeed]


def test_database_is_read_as_one_stream_while_a_catch_up_feed_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_CALM_SECONDS", 0.0)
    rng = random.Random(7)
    script = Oplog()
    is_open = Event()
    ways: list[type] = []
    got: list[TransactionPart] = []
    watched = {"a": Watched(None), "b": Watched(None)}
    with closing(open_feed("collection", script, watched, T, Event(), is_open.is_set)) as feed:
        assert isinstance(feed, AdaptiveFeed)
        for number in range(90):
            (is_open.set if 30 <= number < 60 else is_open.clear)()
            script.write(T + 1 + number, 1 + number % 3, rng)
            wait_until(lambda: _read(feed, got, ways) and sum(len(p.events) for p in got) == len(script.events), "all")
            if 30 < number < 60:
                assert feed.scope == "database"
        assert feed.scope == "collection"
    assert [event for part in got for event in part.events] == read(*script.events)
    assert [kind for kind, _ in itertools.groupby(ways)] == [CollectionFeed, DatabaseFeed, CollectionFeed]


def test_reader_that_hangs_does_not_delay_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection may be stalled, perhaps of a collection to which nothing is written."""
    monkeypatch.setattr(feeds, "_CALM_SECONDS", 0.0)
    is_open, released = Event(), Event()
    hanging = Thread(target=released.wait, daemon=True)
    hanging.start()
    monkeypatch.setattr(CollectionFeed, "detach", lambda self: [hanging])
    with closing(AdaptiveFeed(Oplog(), {}, T, catch_up_is_open=is_open.is_set)) as feed:
        is_open.set()
        wait_until(lambda: feed.read() and feed.scope == "database", "one stream is read")
        is_open.clear()
        before = time.monotonic()
        wait_until(lambda: feed.read() and feed.scope == "collection", "each collection is read")
        assert time.monotonic() - before < 4
        released.set()


def test_failing_streams_are_not_replaced_while_catch_up_is_open() -> None:
    """A new stream would begin with a short deadline again, and hide the failure."""
    script = ScriptedSource(database=[AutoReconnect("away")] * 1000)
    is_open = Event()
    with closing(AdaptiveFeed(script, {"a": Watched(None)}, T, catch_up_is_open=is_open.is_set)) as feed:
        for _ in range(3):
            assert feed.read() is None
            is_open.set()
        assert isinstance(feed._feed, CollectionFeed)
        assert "away" in str(feed.health.problem)


def _read(feed: AdaptiveFeed, got: list[TransactionPart], ways: list[type]) -> type:
    batch = feed.read()
    got += batch.parts if batch else []
    ways.append(type(feed._feed))
    return ways[-1]
