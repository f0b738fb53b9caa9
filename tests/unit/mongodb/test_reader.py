"""Change streams from a scripted MongoDB: the requests, and what becomes of the replies."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from threading import Event, Lock, Thread
from typing import Any, TypeVar, cast
from unittest.mock import MagicMock

import bson
import pytest
from bson import Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference
from pymongo.errors import AutoReconnect, NetworkTimeout, OperationFailure, PyMongoError

from tests.support.wait import wait_until
from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import (
    EventUnreadable,
    ResumeLost,
    SourceError,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
    Stopped,
    TokenUnfit,
)
from zmsd.mongodb import feed as feeds
from zmsd.mongodb import raw_batch, resume_token
from zmsd.mongodb import reader as readers
from zmsd.mongodb.change_cursor import ChangeCursor
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.content_reader import Watched
from zmsd.mongodb.events import ChangeEvent, change_event
from zmsd.mongodb.feed import AdaptiveFeed, CollectionFeed, DatabaseFeed, Feed, StreamFeed, open_feed
from zmsd.mongodb.lookup import Lookup
from zmsd.mongodb.members import Pin
from zmsd.mongodb.reader import Health, Reader
from zmsd.mongodb.sequencer import TransactionPart
from zmsd.mongodb.snapshot_scan import Scan, prefetched
from zmsd.mongodb.source import Source
from zmsd.prometheus import Counter

T = 1795407798 << 32 | 20
Answer = tuple[list[Document], Document] | PyMongoError


def mark(at: int) -> Document:
    """Return a token that marks how far the stream has read."""
    return {"_data": f"82{at:016X}2B0229296E04"}


def event(at: int, number: int = 0, coll: str = "a", kind: str = "insert", **more: Any) -> Document:
    token = {"_data": f"82{at:016X}2B042C01{number:06X}"}
    return {
        "_id": token,
        "operationType": kind,
        "ns": {"coll": coll},
        "documentKey": {"_id": number},
        "fullDocument": {"_id": number},
        **more,
    }


def read(*events: Document) -> list[ChangeEvent]:
    """Return the events of mongod's documents."""
    return [change_event(one) for one in events]


def batch(*events: Document, upto: int | None = None) -> Answer:
    return list(events), events[-1]["_id"] if upto is None else mark(upto)


def failure(code: int) -> OperationFailure:
    return OperationFailure("no", code, {"ok": 0, "errmsg": "no", "code": code})


class Script:
    """Scripted replies for each stream (collection, None: the database). When they are used up, the stream is idle."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers: dict[str | None, list[Answer]] = {None: answers.pop("database", []), **answers}
        self.opened: list[tuple[str | None, Document]] = []
        """(collection, options of $changeStream)"""
        self.limits: list[float] = []
        """Seconds that the commands that opened them might take."""
        self.killed: list[int] = []
        self._streams: list[str | None] = []
        self._last: dict[str | None, Document] = {}
        self._lock = Lock()
        source = MagicMock(db=self, images=frozenset(), wants_images=False, failures=Counter())
        source.deployment.sharded = False
        source.read = lambda command, _pin, _session=None, codec=CODEC, **options: self.command(
            command, codec_options=codec, **options
        )
        source.pin = Pin
        self.source = cast(Source, source)

    def command(self, command: Document, **options: Any) -> Document:
        with self._lock:
            if "killCursors" in command:
                self.killed += command["cursors"]
                return {}
            if "aggregate" in command:
                stream = None if command["aggregate"] == 1 else command["aggregate"]
                self.opened.append((stream, command["pipeline"][0]["$changeStream"]))
                self.limits.append(options.get("seconds", 0.0))
                self._streams.append(stream)
                key, number = "firstBatch", len(self._streams)
            else:
                key, number = "nextBatch", command["getMore"]
                stream = self._streams[number - 1]
            waiting = self.answers.setdefault(stream, [])
            answer: Answer = waiting.pop(0) if waiting else ([], self._last.get(stream, mark(T)))
            if isinstance(answer, PyMongoError):
                raise answer
            events, self._last[stream] = answer
        if not events:
            Event().wait(0.005)  # as an idle stream does
        reply = {"id": number, "ns": "db.c", key: events, "postBatchResumeToken": self._last[stream]}
        return {"cursor": reply, "operationTime": Timestamp(T >> 32, 99)}


def cursor(script: Script, collection: str | None = None) -> ChangeCursor:
    return ChangeCursor(script.source, collection, T, [])


# CURSOR


def test_stream_begins_right_after_a_position() -> None:
    script = Script(database=[batch(event(T + 1)), batch(event(T + 2))])
    stream = cursor(script)
    assert [stream.read().events, stream.read().events] == [read(event(T + 1)), read(event(T + 2))]
    assert script.opened == [(None, {"startAtOperationTime": Timestamp(T >> 32, 21)})]
    stream.close()
    assert script.killed == [1]


@pytest.mark.parametrize("first", [[], [batch(upto=T + 9)]], ids=["before the first batch", "after one"])
def test_stream_resumes_at_its_position_after_transient_errors(first: list[Answer]) -> None:
    script = Script(database=[*first, AutoReconnect("away"), failure(11600), batch(event(T + 10))])
    stream = cursor(script)
    for _ in first:
        stream.read()
    for _ in range(2):
        with pytest.raises(SourceUnavailable):
            stream.read()
    assert stream.read().events == read(event(T + 10))
    options = [option for _, option in script.opened]
    if first:
        assert options[1:] == [{"resumeAfter": mark(T + 9)}] * 2
    else:
        assert options == [{"startAtOperationTime": Timestamp(T >> 32, 21)}] * 3


def test_unfit_token_is_retried_by_time_before_the_position_is_lost() -> None:
    """The position may still be read by its cluster time; if that fails too, it is lost."""
    script = Script(database=[batch(event(T + 1)), failure(280), failure(280)])
    stream = cursor(script)
    stream.read()
    with pytest.raises(TokenUnfit):
        stream.read()
    with pytest.raises(ResumeLost):
        cursor(script).read()


def test_position_before_the_oplog_is_lost() -> None:
    script = Script(database=[failure(286)])
    with pytest.raises(ResumeLost):
        cursor(script).read()


# READER


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "REFUSED_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(feeds, "AWAIT_MS", 50)


class Filling(Reader):
    """Completes its events once the test allows it."""

    def __init__(self, script: Script, *troubles: Exception) -> None:
        self.health = Health()
        self.stop = Event()
        self.troubles = list(troubles)
        super().__init__("reader", cursor(script), self.stop, self.health)

    def fill(self, events: list[ChangeEvent]) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        for one in events:
            one.after = {"filled": True}


def test_failure_is_reported_until_the_next_success() -> None:
    reader = Filling(Script(database=[AutoReconnect("away"), failure(13), batch(event(T + 1))]))
    assert reader.read_batch() is None
    assert "away" in str(reader.health.problem)
    assert reader.read_batch() is None
    assert "code 13" in str(reader.health.problem)
    assert reader.read_batch() is not None
    assert reader.health.problem is None


def test_busy_server_is_given_longer_and_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that gave up would begin again with a short deadline, and never open an old position."""
    monkeypatch.setattr(readers, "_GIVE_UP_SECONDS", -1.0)
    script = Script(database=[failure(50), failure(50), batch(event(T + 1)), NetworkTimeout("timed out")])
    reader = Filling(script)
    for _ in range(2):
        assert reader.read_batch() is None
    found = reader.read_batch()
    assert found is not None
    assert found.events
    assert script.limits == [10, 40, 160]
    with pytest.raises(SourceTimeout):
        reader.read_batch()


@pytest.mark.parametrize("trouble", [SourceUnavailable("away"), SourceRefused("not authorized")])
def test_events_that_could_not_be_completed_are_kept(trouble: Exception) -> None:
    """The stream has advanced: it would not return them again."""
    reader = Filling(Script(database=[batch(event(T + 1))]), trouble, trouble)
    got: list[ChangeEvent] = []
    while not got:
        found = reader.read_batch()
        got += found.events if found else []
    assert [one.after for one in got] == [{"filled": True}]


def test_events_that_could_not_be_completed_do_not_delay_a_stop() -> None:
    reader = Filling(Script(database=[batch(event(T + 1))]), *[SourceUnavailable("away")] * 3)
    reader.stop.set()
    with pytest.raises(Stopped):
        reader.read_batch()


def test_stream_reopens_after_an_invalidate() -> None:
    drop, end = event(T + 2, 1, kind="drop"), event(T + 2, 2, kind="invalidate")
    script = Script(a=[batch(event(T + 1), drop, end), batch(event(T + 3))])
    reader = Reader("a", cursor(script, "a"), Event(), Health())
    first, second = reader.read_batch(), reader.read_batch()
    assert first is not None
    assert second is not None
    assert (first.events, second.events) == (read(event(T + 1), drop), read(event(T + 3)))
    assert script.opened[-1] == ("a", {"startAtOperationTime": Timestamp(T >> 32, 23)})


# FEEDS


F = TypeVar("F", DatabaseFeed, CollectionFeed, StreamFeed, AdaptiveFeed)


@contextmanager
def reading(kind: type[F], script: Script) -> Iterator[F]:
    with closing(kind(script.source, {"a": Watched(None), "b": Watched(None)}, T)) as feed:
        yield feed


def pieces_of(feed: Feed, enough: Callable[[list[TransactionPart]], bool]) -> list[TransactionPart]:
    parts: list[TransactionPart] = []
    for _ in range(1000):
        found = feed.read()
        parts += found.parts if found else []
        if enough(parts):
            return parts
    raise AssertionError(f"only {parts}")


def order(*events: Document) -> list[Document]:
    return [{key: one[key] for key in ("_id", "operationType", "ns")} for one in events]


def test_collection_and_database_feed_return_the_same() -> None:
    events = [event(T + 1, 0, "b"), event(T + 2, 0, "a"), event(T + 2, 1, "b"), event(T + 4, 0, "a")]
    wanted = [
        TransactionPart(T + 1, read(*events[:1]), True, True),
        TransactionPart(T + 2, read(*events[1:3]), True, True),
    ]
    wanted.append(TransactionPart(T + 4, read(*events[3:]), True, True))
    of = {name: [one for one in events if one["ns"]["coll"] == name] for name in "ab"}
    collections = Script(
        database=[batch(*order(*events[:3])), batch(*order(events[3]), upto=T + 9)],
        a=[batch(*of["a"])],
        b=[batch(of["b"][0]), batch(of["b"][1])],
    )
    with reading(CollectionFeed, collections) as feed:
        assert pieces_of(feed, lambda parts: len(parts) == 3) == wanted
    with reading(DatabaseFeed, Script(database=[batch(*events[:3], upto=T + 3), batch(events[3], upto=T + 5)])) as feed:
        assert pieces_of(feed, lambda parts: len(parts) == 3) == wanted


@pytest.mark.parametrize("kind", [CollectionFeed, DatabaseFeed])
def test_progress_is_not_past_unread_events(kind: type[StreamFeed]) -> None:
    content = batch(event(T + 3, 0, "a"), upto=T + 4)
    script = Script(database=[batch(upto=T + 2), content, batch(upto=T + 9)], a=[content])
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
    with reading(kind, Script(database=[batch(upto=T + 1)])) as feed:
        wait_until(feed.read, "the first batch")
        assert feed.progress == T


def test_unfit_token_within_a_transaction_repeats_it_from_the_start() -> None:
    """The feed begins again at its progress, which is before the transaction that was read in part."""
    script = Script(database=[batch(event(T + 1, 0)), failure(280), batch(event(T + 5), upto=T + 6)])

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

    with reading(kind, Script(database=[failure(286)])) as feed, pytest.raises(ResumeLost):
        lost(feed)


def test_lost_position_of_one_collection_is_raised() -> None:
    script = Script(database=[batch(*order(event(T + 1)))], a=[failure(286)])
    with reading(CollectionFeed, script) as feed, pytest.raises(ResumeLost):
        pieces_of(feed, bool)


def test_closing_a_feed_does_not_set_the_callers_stop_event() -> None:
    stop = Event()
    with closing(DatabaseFeed(Script().source, {}, T, stop)) as feed:
        feed.read()
    assert not stop.is_set()
    with closing(DatabaseFeed(Script().source, {}, T, stop)) as feed:
        stop.set()
        with pytest.raises(Stopped):
            feed.read()


def test_closed_feed_leaves_no_thread_and_no_cursor() -> None:
    script = Script()
    with reading(CollectionFeed, script) as feed:
        wait_until(lambda: len(script.opened) == 3, "all streams are open")
        feed.read()
    assert sorted(script.killed) == [1, 2, 3]


def test_failing_reader_does_not_block_the_feed() -> None:
    """Its problem is visible on /readyz, and a stop takes effect."""
    script = Script(database=[batch(*order(event(T + 1)))], a=[AutoReconnect("away")] * 10_000)
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
    script = Script(database=[batch(event(T + 1, **more))])
    script.source.may_group.return_value = grouped  # type: ignore[attr-defined]
    with reading(DatabaseFeed, script) as feed:
        (part,) = pieces_of(feed, bool)
        assert part.last == known


@pytest.mark.parametrize("imaged", [True, False])
def test_delete_is_complete_at_once_if_the_server_sent_its_image(imaged: bool) -> None:
    """MongoDB 7.0 groups deletes without images. A document that was looked up does not prove an image."""
    image = {"fullDocumentBeforeChange": {"_id": 1}} if imaged else {}
    script = Script(database=[batch(event(T + 1, kind="delete", **image))])
    script.source.may_group = lambda *, imaged: not imaged  # type: ignore[method-assign]
    with reading(DatabaseFeed, script) as feed:
        (part,) = pieces_of(feed, bool)
        assert part.last == imaged


class Oplog(Script):
    """Replies from a history, from any position at which a stream begins."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Document] = []
        self._seen: list[int] = []  # stream -> number of events that it has returned

    @property
    def newest(self) -> int:
        return resume_token.position_of(self.events[-1]["_id"]) if self.events else T

    def write(self, at: int, count: int, rng: random.Random) -> None:
        """Return the events of one transaction."""
        self.events += [event(at, number, rng.choice("ab")) for number in range(count)]

    def command(self, command: Document, codec_options: Any = None, **_: Any) -> Any:
        with self._lock:
            if "killCursors" in command:
                return {}
            if "aggregate" in command:
                options = command["pipeline"][0]["$changeStream"]
                if "resumeAfter" in options:
                    seen = [one["_id"]["_data"] <= options["resumeAfter"]["_data"] for one in self.events]
                else:
                    start = f"82{position.of_timestamp(options['startAtOperationTime']):016X}"
                    seen = [one["_id"]["_data"] < start for one in self.events]
                self.opened.append((None if command["aggregate"] == 1 else command["aggregate"], options))
                self._seen.append(sum(seen))
                number = len(self._seen)
            else:
                number = command["getMore"]
            stream, size = self.opened[number - 1][0], command.get("batchSize") or command["cursor"]["batchSize"]
            found: list[Document] = []
            while len(found) < size and self._seen[number - 1] < len(self.events):
                one = self.events[self._seen[number - 1]]
                self._seen[number - 1] += 1
                if stream in (None, one["ns"]["coll"]):
                    found.append(one)
            seen = self._seen[number - 1]
            token = self.events[seen - 1]["_id"] if seen else mark(T)
        if not found:
            Event().wait(0.005)
        key = "firstBatch" if "aggregate" in command else "nextBatch"
        reply = {key: found, "postBatchResumeToken": token, "id": number, "ns": "db.c"}
        whole = {"cursor": reply, "operationTime": position.to_timestamp(self.newest)}
        return (
            RawBSONDocument(self.damaged(bson.encode(whole)), raw_batch.RAW)
            if codec_options is raw_batch.RAW
            else whole
        )

    def damaged(self, reply: bytes) -> bytes:
        return reply


class DamagedOplog(Oplog):
    """The text of one event is not UTF-8, and its document has no end."""

    def damaged(self, reply: bytes) -> bytes:
        return reply.replace(b"\x02bad\0\x02\0\0\0x\0", b"\x02bad\0\x7f\0\0\0x\0")


def test_invalid_bson_costs_only_its_slice() -> None:
    """Events read before it are not returned again, and events after it are not skipped."""
    script = DamagedOplog()
    script.events = [event(T + number, number) for number in range(1, 3000)]
    script.events[1500]["fullDocument"]["bad"] = "x"
    stream = ChangeCursor(script.source, None, T, [], ahead=True)
    got: list[int] = []
    unreadable: list[int] = []
    while len(got) < 2999:
        try:
            found = stream.read()
        except EventUnreadable:
            unreadable.append(len(got))
            found = stream.read_without_documents()
        got += [one.document_id for one in found.events]
    assert unreadable[0] == 20 + 1000 + 480 // raw_batch.SLICE * raw_batch.SLICE
    assert got == list(range(1, 3000))


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
    script = Script()
    script.source.may_group = lambda *, imaged: grouped  # type: ignore[method-assign]
    script.source.deployment.sharded = sharded  # type: ignore[misc]
    watched = {f"c{number}": Watched(None) for number in range(collections)}
    with closing(open_feed(setting, script.source, watched, T, Event())) as feed:
        assert feed.scope == scope


def test_backlog_is_read_by_database_and_then_by_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost or repeated, and transactions stay whole, when one feed replaces the other."""
    monkeypatch.setattr(feeds, "_CALM_SECONDS", 0.05)
    rng = random.Random(5)
    script = Oplog()
    script.source.wants_images = True  # so that the batches are larger
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


def _read(feed: AdaptiveFeed, got: list[TransactionPart], ways: list[type]) -> type:
    batch = feed.read()
    got += batch.parts if batch else []
    ways.append(type(feed._feed))
    return ways[-1]


# LOOK-UPS, WHERE THERE ARE NO IMAGES


class Documents:
    """A collection with another state at each position."""

    def __init__(self, states: dict[int, list[Document]]) -> None:
        self.states = states

    def find(self, command: Document, _: Any) -> list[Document]:
        at = position.of_timestamp(command["readConcern"]["atClusterTime"])
        wanted = command["filter"]["_id"]["$in"]
        return [document for document in self.states[at] if document["_id"] in wanted]


def looked_up(states: dict[int, list[Document]], *documents: Document) -> list[ChangeEvent]:
    source = MagicMock(find=Documents(states).find, preferences=(ReadPreference.PRIMARY,))
    events = read(*documents)
    Lookup(source, "a", None).complete(events, before=True)
    return events


def bare(at: int, number: int, kind: str, key: int = 1, **more: Any) -> Document:
    """Return an event without the documents that only images or a look-up give."""
    one = event(at, number, kind=kind, documentKey={"_id": key}, **more)
    if kind != "insert":
        one.pop("fullDocument", None)
    return one


def test_lookup_reads_documents_at_the_time_of_the_change() -> None:
    one, two = {"_id": 1, "v": 1}, {"_id": 1, "v": 2}
    update, delete = looked_up(
        {T: [one], T + 1: [two], T + 2: [two]}, bare(T + 1, 0, "update"), bare(T + 3, 0, "delete")
    )
    assert (update.before, update.after) == (one, two)
    assert delete.before == two


def test_document_before_within_a_transaction_is_that_of_the_previous_event() -> None:
    """Otherwise the row of the first event would remain where the second event deletes it or changes its key."""
    made = {"_id": 1, "v": 1}
    _, delete = looked_up({T: [], T + 1: []}, bare(T + 1, 0, "insert", fullDocument=made), bare(T + 1, 1, "delete"))
    assert delete.before == made


# COPY


class FakeScan:
    collection = "c"

    def __init__(self, batches: Sequence[list[Document]], stop: Event, stop_at: int | None = None) -> None:
        self.batches = batches
        self.stop = stop
        self.stop_at = stop_at
        self.over = Event()

    def __iter__(self) -> Generator[list[list[Document]], None, None]:
        for number, documents in enumerate(self.batches):
            if number == self.stop_at:
                self.stop.set()
            if self.over.is_set():
                return
            yield [documents]

    def documents(self, one: list[Document]) -> list[Document]:
        return one

    def end(self) -> None:
        self.over.set()


def test_snapshot_scan_is_read_ahead_in_order() -> None:
    stop = Event()
    batches = [[{"_id": number}] for number in range(20)]
    assert list(prefetched(cast(Scan, FakeScan(batches, stop)), stop)) == batches


@pytest.mark.parametrize("at", [0, 1, 5])
def test_stopped_snapshot_scan_raises(at: int) -> None:
    """A caller that took them for all documents would publish a part of the collection."""
    stop = Event()
    scan = FakeScan([[{"_id": number}] for number in range(20)], stop, at)
    with pytest.raises(Stopped):
        list(prefetched(cast(Scan, scan), stop))


def test_closed_snapshot_scan_ends_its_thread() -> None:
    stop = Event()
    scan = FakeScan([[{"_id": number}] for number in range(1000)], stop)
    documents = prefetched(cast(Scan, scan), stop)
    next(documents)
    documents.close()  # type: ignore[attr-defined]
    assert scan.over.is_set(), "also where it waits for MongoDB to come back"
