"""A session between a connection that keeps what it is sent, and a hub with scripted changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import messages
from tests.support.wait import wait_until
from tests.unit.fakes import FakeLineage, FakePeer, FakeSource, FakeStore, active, hub
from zmsd.errors import Evicted, ResumeLost, SourceRefused, SourceUnavailable, Stopped, StoreError
from zmsd.gateway import session as sessions
from zmsd.gateway.session import Session
from zmsd.gateway.subscription import Subscription
from zmsd.position import watermark
from zmsd.replication import throttled_write
from zmsd.replication.catch_up import CatchUpFeeds, Changes
from zmsd.replication.change_log import ChangeLog, Entry
from zmsd.replication.initial_sync import InitialSync
from zmsd.schema.catalog import Catalog
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import CopyRecord, Replica, ReplicaRecord
from zmsd.zero import protocol

REPLICA = Replica("zero", 0, watermark(5))
PUBLISHED, OTHER = Publication(Catalog(())), Publication(Catalog(()), "other")


def data(text: str) -> bytes:
    return protocol.frame(json.dumps(["data", text]))


def entry(at: int, *texts: str, ends: bool = True, shards: dict[str, str] | None = None) -> Entry:
    own = {shard: data(text) for shard, text in (shards or {}).items()}
    return Entry(watermark(at), at, len(texts), b"".join(map(data, texts)), ends, own or None)


class Script(Changes):
    """Scripted changes: each step is entries, an exception, or a function to call."""

    def __init__(self, *steps: Sequence[Entry] | BaseException | type[BaseException] | Callable[[], object]) -> None:
        self.steps = list(steps)
        self.closed = 0

    def take(self, rows: int, size: int, timeout: float) -> Sequence[Entry]:
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, BaseException) or (isinstance(step, type) and issubclass(step, BaseException)):
                raise step
            if not callable(step):
                return step
            step()
        return []

    def close(self) -> None:
        self.closed += 1


class ScriptedFeeds(CatchUpFeeds):
    """Gives a session the scripts of a scene."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.source, ChangeLog(), 4)
        self.next: Callable[[str], Changes] = scene.next_changes

    def changes(self, watermark: str, *_: object) -> Changes:
        return self.next(watermark)


class Scene:
    """A session with its fakes, and what it sent."""

    def __init__(
        self,
        *changes: Script | BaseException,
        last: str | None = watermark(10),
        subscription: Subscription | None = None,
        ours: bool = True,
        join_delay: float = 0.0,
    ) -> None:
        """:param last: watermark with which the client connects
        :param ours: whether this process has sent that watermark
        """
        self.watermarks: list[str] = []
        self.source, self.store, self.lineage, self.peer = FakeSource(), FakeStore(), FakeLineage(), FakePeer()
        self.hub = hub(source=self.source, store=self.store, lineage=self.lineage, join_delay=join_delay)
        self.readiness = self.hub.readiness
        self.changes = list(changes)
        self.feeds = self.hub.catch_up = ScriptedFeeds(self)
        if ours and last is not None:
            self.hub.replicas.unacknowledged(REPLICA).sent(last)
        subscription = subscription or Subscription("zero", 0, last, watermark(5) if last else None)
        self.session = Session(1, "127.0.0.1", subscription, self.hub)

    def next_changes(self, mark: str) -> Changes:
        """Return the next script, after which the session is stopped."""
        self.watermarks.append(mark)
        if not self.changes:
            self.session.stop()
            return Script()
        found = self.changes.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found

    def publish(self) -> None:
        """Serve another publication than the one that the client has."""
        record = CopyRecord(REPLICA.version, REPLICA.version, PUBLISHED.fingerprint)
        self.store.records[REPLICA] = ReplicaRecord(None, (record,))
        self.store.publications[PUBLISHED.fingerprint] = PUBLISHED.to_json()
        self.hub.active = active(OTHER, self.source)

    def run(self) -> list[Any]:
        """Run the session to its end, and return what it sent."""
        self.session.run(self.peer)
        return self.peer.sent


def transaction(at: int, *texts: str, oldest: int | None = None) -> list[Any]:
    """Return the messages of a transaction.

    :param oldest: the commit time that a joined transaction carries
    """
    mark = watermark(at)
    return [
        ["begin", {"tag": "begin", "json": "s"}, {"commitWatermark": mark}],
        *(["data", text] for text in texts),
        ["commit", {"tag": "commit", "commitTimeMs": at if oldest is None else oldest}, {"watermark": mark}],
    ]


ROLLBACK = ["rollback", {"tag": "rollback"}]


def reset(message: str, code: str, position: str) -> list[Any]:
    details = {"code": code, "position": position, "oplogStart": None, "advice": protocol.RESET_ADVICE[code]}
    return ["control", {"tag": "reset-required", "message": message, "errorDetails": details}]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(sessions, "RESET_SECONDS", 0.0)


def test_caught_up_session_sends_each_transaction_at_once() -> None:
    scene = Scene()
    scene.changes = [Script([entry(11, "a")], [], [entry(12, "b", "c")], scene.session.stop)]
    assert scene.run() == [*transaction(11, "a"), *transaction(12, "b", "c")]
    assert scene.watermarks == [watermark(10)]
    assert scene.session.sent == watermark(12)
    assert scene.peer.closed == (1001, "zmsd stops")


def test_backlogged_session_merges_transactions() -> None:
    scene = Scene()
    scene.changes = [Script([entry(at, str(at)) for at in range(11, 20)], scene.session.stop)]
    assert scene.run() == transaction(19, *map(str, range(11, 20)), oldest=11)


def test_backlog_after_a_watermark_of_another_process_is_not_merged() -> None:
    scene = Scene(ours=False)
    scene.changes = [Script([entry(at, str(at)) for at in (11, 12, 13)], scene.session.stop)]
    assert scene.run() == [message for at in (11, 12, 13) for message in transaction(at, str(at))]


def test_empty_transaction_carries_the_watermark() -> None:
    scene = Scene()
    scene.changes = [Script([entry(11)], scene.session.stop)]
    assert scene.run() == transaction(11)


def test_shard_rows_go_only_to_clients_of_the_shard() -> None:
    scene = Scene()
    both = entry(11, "all", shards={"zero_0": "mine", "zero_1": "other", "zero_00": "strange"})
    scene.changes = [Script([both, entry(12, shards={"zero_1": "other"})], scene.session.stop)]
    assert scene.run() == transaction(12, "all", "mine", oldest=11)


def test_large_transaction_stays_open_until_its_end() -> None:
    scene = Scene()
    scene.changes = [
        Script(
            [entry(11, "a"), entry(20, "b", ends=False)],
            [entry(20, "c", ends=False)],
            scene.session.stop,  # the session ends at the end of a transaction
            [entry(20, "d")],
        )
    ]
    assert scene.run() == transaction(20, "a", "b", "c", "d", oldest=11)


def test_transaction_after_a_large_one_is_sent_separately() -> None:
    """The watermark of the large transaction was sent in its begin."""
    scene = Scene()
    scene.changes = [
        Script([entry(11, "a", ends=False)], [entry(11, "b"), entry(12, "c"), entry(13, "d")], scene.session.stop)
    ]
    assert scene.run() == [*transaction(11, "a", "b"), *transaction(13, "c", "d", oldest=12)]


def test_evicted_open_transaction_is_rolled_back_and_repeated() -> None:
    scene = Scene()
    scene.changes = [
        Script([entry(11, "a")], [entry(12, "b"), entry(20, "c", ends=False)], Evicted),
        Script([entry(12, "b")], [entry(20, "c")], Evicted),
        Script([entry(21, "d")], scene.session.stop),
    ]
    assert scene.run() == [
        *transaction(11, "a"),
        *transaction(20, "b", "c")[:-1],
        ROLLBACK,
        *transaction(12, "b"),
        *transaction(20, "c"),
        *transaction(21, "d"),
    ]
    assert scene.watermarks == [watermark(at) for at in (10, 11, 20)]


def test_committed_transaction_is_not_repeated_after_eviction() -> None:
    """A large transaction ended, and the next one had begun when the reader was evicted."""
    scene = Scene()
    scene.changes = [
        Script([entry(11, "a", ends=False)], [entry(11, "b"), entry(12, "c", ends=False)], Evicted),
    ]
    scene.run()
    assert scene.watermarks == [watermark(10), watermark(11)]


def test_session_closes_its_changes() -> None:
    first, second = Script(Evicted), Script([entry(11)])
    scene = Scene(first, second)
    second.steps.append(scene.session.stop)
    scene.run()
    assert (first.closed, second.closed) == (1, 1)


class FakeChanges:
    """Changes after any watermark, in takes of any size, evicted at any moment."""

    def __init__(self, scene: Scene, entries: list[Entry], takes: Iterator[int]) -> None:
        self.scene = scene
        self.entries = entries
        self.takes = takes

    def changes(self, after: str) -> Script:
        # Catch-up feeds and the log begin after a watermark, at the beginning of a transaction.
        script = Script()
        left = [one for one in self.entries if one.watermark > after]
        for size in self.takes:
            if not size:
                script.steps.append(Evicted)
                return script
            script.steps.append(left[:size])
            left = left[size:]
            if not left:
                break
        else:
            script.steps.append(left)
        script.steps = [step for step in script.steps if step or callable(step)]
        script.steps.append(self.scene.session.stop)
        return script


TRANSACTIONS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([1, 1, 2, 4])), min_size=1, max_size=8)


def follow(transactions: list[tuple[int, int]], takes: list[int]) -> None:
    """In the end zero-cache has all changes: once, in order, under watermarks that rise."""
    entries: list[Entry] = []
    at = 10
    for gap, parts in transactions:
        at += gap
        entries += [entry(at, f"{at}.{part}", ends=part == parts - 1) for part in range(parts)]
    scene = Scene()
    scene.feeds.next = FakeChanges(scene, entries, iter(takes)).changes
    got: list[str] = []
    reached, begun = watermark(10), None
    pending: list[str] = []
    for message in scene.run():
        if message[0] == "begin":
            assert begun is None, "no transaction in a transaction"
            begun = message[2]["commitWatermark"]
            assert begun > reached, "watermarks rise"
            pending = []
        elif message[0] == "data":
            assert begun is not None
            pending.append(message[1])
        else:
            assert begun is not None
            if message[0] == "commit":
                assert message[2] == {"watermark": begun}
                reached = begun
                got += pending
            begun = None
    assert begun is None
    assert got == [text[1] for one in entries for text in messages(one.frames)]


@given(TRANSACTIONS, st.lists(st.integers(0, 4), max_size=12))
def test_each_transaction_is_sent_once_whatever_is_evicted(gaps: list[tuple[int, int]], takes: list[int]) -> None:
    follow(gaps, takes)


# STOP, FAILURE, ACKNOWLEDGEMENTS


def test_lost_position_sends_only_reset_required() -> None:
    scene = Scene(Script([entry(11, "a")], [entry(12, "b", ends=False)], ResumeLost("the oplog begins later")))
    sent = scene.run()
    assert sent[:-1] == [*transaction(11, "a"), *transaction(12, "b")[:-1], ROLLBACK]
    assert sent[-1] == reset("the oplog begins later", "position-lost", watermark(11))


def test_reset_required_has_the_start_of_the_oplog() -> None:
    scene = Scene(ResumeLost("the oplog begins later"))
    scene.source.first = 50
    (message,) = scene.run()
    assert message[1]["errorDetails"]["oplogStart"] == watermark(50)


def test_foreign_watermark_is_answered_with_reset_required() -> None:
    """The client is reset also while MongoDB is unreachable."""
    scene = Scene()
    scene.session.subscription = Subscription("zero", 0, None, None, "lastWatermark '01x' is not a watermark of zmsd")
    scene.readiness.set("MongoDB is away")
    (message,) = scene.run()
    assert message == reset("lastWatermark '01x' is not a watermark of zmsd", "foreign-watermark", watermark(10))


def test_watermark_of_another_lineage_sends_reset_required() -> None:
    scene = Scene()

    scene.lineage.refuse = lambda mark, begun: f"{mark} after {begun} is another database's"
    (message,) = scene.run()
    said = f"{watermark(10)} after {watermark(5)} is another database's"
    assert message == reset(said, "position-lost", watermark(10))


def test_lineage_is_checked_again_after_a_doubt() -> None:
    """The connection to MongoDB was lost: the check follows the end of the current transaction."""
    scene = Scene()
    scene.changes = [
        Script(
            [entry(11, "a")],
            scene.lineage.distrust,
            [entry(12, "b", ends=False)],
            [entry(12, "c")],
            [entry(13, "d")],
        )
    ]
    assert scene.run() == [*transaction(11, "a"), *transaction(12, "b", "c")]
    assert scene.lineage.checks == [(watermark(10), watermark(5)), (watermark(12), watermark(5))]


def test_stop_sends_no_reset_required() -> None:
    """The session stops also while it waits for MongoDB or for a catch-up feed."""
    scene = Scene(Stopped())
    assert scene.run() == []
    assert scene.peer.closed == (1001, "zmsd stops")


def test_open_transaction_does_not_delay_a_stop() -> None:
    scene = Scene()
    scene.changes = [Script([entry(11, "a", ends=False)], scene.session.stop)]
    thread = Thread(target=scene.run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert not [message for message in scene.peer.sent if message[0] == "commit"]


def test_client_is_held_until_the_feed_runs() -> None:
    """A refused client would reconnect at once."""
    scene = Scene()
    scene.readiness.set("MongoDB is away")
    thread = Thread(target=scene.run, daemon=True)
    thread.start()
    scene.peer.up.append(ack(9))
    wait_until(lambda: scene.session.acked == watermark(9), "its messages are read")
    assert thread.is_alive()
    assert scene.peer.closed is None
    assert not scene.watermarks
    scene.changes = [Script([entry(11, "a")])]
    scene.readiness.set(None)
    wait_until(lambda: len(scene.peer.sent) == 3, "it is served")
    scene.session.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_client_that_disconnects_before_the_feed_runs_is_released() -> None:
    scene = Scene()
    scene.readiness.set("MongoDB is away")
    scene.peer.ended = True
    scene.run()
    assert not scene.watermarks


def ack(at: int) -> str:
    return json.dumps(["status", {"tag": "commit", "commitTimeMs": 1}, {"watermark": watermark(at)}])


def coalesced(at: int) -> str:
    """Return an ack as zero-cache 1.10 sends it."""
    return json.dumps(["status", {"tag": "commit"}, {"watermark": watermark(at)}])


@pytest.mark.parametrize("form", [ack, coalesced])
def test_acknowledgements_are_recorded(monkeypatch: pytest.MonkeyPatch, form: Callable[[int], str]) -> None:
    monkeypatch.setattr(throttled_write, "INTERVAL_SECONDS", 1000)
    scene = Scene()

    def confirm() -> None:
        scene.peer.up += [form(9), form(12)]

    scene.changes = [Script([entry(11), entry(12)], confirm, [], scene.session.stop)]
    scene.run()
    assert scene.session.acked == watermark(12)
    assert scene.store.records[REPLICA].acked == watermark(12), "at the end at the latest"
    assert scene.store.writes.count("record_ack") <= 2, "and not each of them by itself"


def test_changes_wait_for_the_ack_of_the_last_commit() -> None:
    scene = Scene(join_delay=60)
    happened: list[str] = []

    def wait() -> None:
        happened.append("waits")
        if len(happened) > 2:  # the first waits may end for another reason
            scene.peer.up.append(ack(11))

    def take() -> None:
        happened.append("takes")
        scene.peer.on_wait = scene.session.stop

    scene.peer.on_wait = wait
    scene.changes = [Script([entry(11, "a")], take, [entry(12, "b"), entry(13, "c")])]
    assert scene.run() == [*transaction(11, "a"), *transaction(13, "b", "c", oldest=12)]
    assert happened == ["waits", "waits", "waits", "takes"]


def test_stop_ends_the_wait_for_an_ack() -> None:
    scene = Scene(join_delay=60)
    scene.peer.on_wait = scene.session.stop
    scene.changes = [Script([entry(11, "a")], [entry(12, "b")])]
    assert scene.run() == transaction(11, "a")


def test_another_publication_ends_the_wait_for_an_ack() -> None:
    scene = Scene(join_delay=60)

    def publish() -> None:
        scene.hub.active = active(PUBLISHED, scene.source)
        scene.peer.on_wait = scene.session.stop

    scene.peer.on_wait = publish
    scene.changes = [Script([entry(11, "a")], [entry(12, "b")]), Script()]
    scene.run()
    assert scene.watermarks == [watermark(10), watermark(11)]


def test_parts_of_a_transaction_do_not_wait_for_an_ack() -> None:
    scene = Scene(join_delay=60)
    scene.peer.on_wait = scene.session.stop
    scene.changes = [Script([entry(11, "a"), entry(12, "b", ends=False)], [entry(12, "c")], [entry(13, "d")])]
    assert scene.run() == transaction(12, "a", "b", "c", oldest=11)


def test_observer_does_not_wait() -> None:
    scene = Scene(subscription=Subscription("zero", 0, watermark(10), watermark(5), None, True), join_delay=60)
    scene.peer.on_wait = scene.session.stop
    scene.changes = [Script([entry(11, "a")], [entry(12, "b")], scene.session.stop)]
    assert scene.run() == [*transaction(11, "a"), *transaction(12, "b")]


def test_acknowledgement_after_a_reconnect_may_be_below_what_was_sent() -> None:
    scene = Scene()
    scene.peer.up.append(coalesced(7))
    scene.changes = [Script([entry(11, "a")], scene.session.stop)]
    assert scene.run() == transaction(11, "a")
    assert scene.session.acked == watermark(7)


@pytest.mark.parametrize("form", [ack, coalesced])
def test_acknowledgement_above_what_was_sent_ends_the_session(form: Callable[[int], str]) -> None:
    scene = Scene()
    scene.changes = [Script([entry(11, "a")], lambda: scene.peer.up.append(form(12)), [], [entry(12, "b")], Stopped)]
    scene.run()
    assert scene.peer.closed is not None
    assert scene.peer.closed[0] == 1002
    assert "record_ack" not in scene.store.writes


def test_acknowledgement_of_an_initial_sync_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """zero-cache closes that connection after the commit: a client that stays is not a replica."""
    scene = Scene(last=None)
    copy = FakeCopy(protocol.begin(watermark(30)), data("a"), protocol.commit(watermark(30), 30))
    monkeypatch.setattr(sessions, "InitialSync", lambda *_: copy)
    scene.changes = [Script(lambda: scene.peer.up.append(ack(30)), [], [entry(41)], scene.session.stop)]
    scene.run()
    assert scene.session.acked == watermark(30)
    assert "record_ack" not in scene.store.writes


def test_observer_leaves_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = FakeCopy(protocol.begin(watermark(30)), data("a"), protocol.commit(watermark(30), 30))
    monkeypatch.setattr(sessions, "InitialSync", lambda *_: copy)
    for last in (None, watermark(10)):
        subscription = Subscription("zero", 0, last, None, observer=True)
        scene = Scene(Script([entry(41)], Stopped), last=last, subscription=subscription)
        scene.peer.up += [] if last is None else [ack(10)]
        scene.run()
        assert not scene.store.writes
        assert not scene.hub.replicas.counts()


def test_failing_store_ends_no_session() -> None:
    scene = Scene()

    def fail(name: str) -> None:
        if name == "record_ack":
            raise StoreError("disk full")

    scene.store.on_write = fail
    scene.peer.up.append(ack(9))
    scene.changes = [Script([entry(11, "a")], scene.session.stop)]
    assert scene.run() == transaction(11, "a")


@pytest.mark.parametrize(
    "message",
    ["", "x", "[]", "1", "{}", '["status"]', '["status", {}, {}]', '["status", {}, {"watermark": 5}]', "[" * 100_000]
    + ['["status", {}, {"watermark": "x"}]', '["status", {}, []]', '["other", {}, {"watermark": "00"}]', "\ud800"]
    + ['["status", {}, null]', '["status", {}, {"watermark": null}]', f'["status", {"1" * 10_000}, {{}}]'],
    ids=lambda message: message[:20],
)
def test_invalid_message_ends_the_session(message: str) -> None:
    scene = Scene(Script())
    scene.peer.up.append(message)
    scene.run()
    assert scene.peer.closed is not None
    assert scene.peer.closed[0] == 1002


def test_refusing_source_ends_the_session_after_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(SourceRefused("not authorized"))
    waits: list[float | None] = []
    monkeypatch.setattr(Event, "wait", lambda self, seconds=None: bool(waits.append(seconds)))
    scene.run()
    assert scene.peer.closed == (1001, "not authorized")
    assert max(filter(None, waits)) >= 1, "zero-cache comes back without any backoff"
    assert scene.peer.sent == []


# COPIES


class FakeCopy(InitialSync):
    """A copy transaction with chunks that a test gives; a function among them is called."""

    def __init__(self, *chunks: bytes | Callable[[], object], publication: Publication = PUBLISHED) -> None:
        source = FakeSource(time=30)
        super().__init__(source, active(publication, source), "zero", 0, Event(), "")
        self.chunks = chunks
        self._stream_from = watermark(40)
        self.progress.rows = 7

    def frames(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            if callable(chunk):
                chunk()
                yield b""
            else:
                yield chunk


def test_initial_sync_is_recorded_before_its_commit_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(last=None)
    commit = protocol.commit(watermark(30), 30)
    copy = FakeCopy(protocol.begin(watermark(30)), data("a"), data("b"), commit)
    monkeypatch.setattr(sessions, "InitialSync", lambda *_: copy)
    seen: list[tuple[str, int]] = []
    scene.store.on_write = lambda name: seen.append((name, len(scene.peer.sent)))
    assert scene.run() == transaction(30, "a", "b")
    assert scene.store.records == {Replica("zero", 0, watermark(30)): ReplicaRecord(None, (copy.record,))}
    assert seen == [("save_publication", 3), ("record_copy", 3)], "begin and rows"
    assert scene.watermarks == [watermark(40)], "the stream goes on where the copy's own replay ended"
    assert (scene.session.sent, scene.session.streamed_to) == (watermark(30), watermark(40))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_interrupted_initial_sync_has_no_commit(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    scene = Scene(last=None)
    chunks: list[Any] = [protocol.begin(watermark(30)), data("a"), data("b"), protocol.commit(watermark(30), 30)]
    copy = FakeCopy(*chunks[:at], scene.session.stop, *chunks[at:])
    monkeypatch.setattr(sessions, "InitialSync", lambda *_: copy)
    assert not [message for message in scene.run() if message[0] == "commit"]
    assert "record_copy" not in scene.store.writes


@pytest.mark.parametrize("last", [None, watermark(10)], ids=["initial sync", "schema change"])
def test_sync_during_a_change_of_lineage_is_not_committed(monkeypatch: pytest.MonkeyPatch, last: str | None) -> None:
    scene = Scene(last=last)
    copy = FakeCopy(protocol.begin(watermark(30)), data("a"), protocol.commit(watermark(30), 30))
    monkeypatch.setattr(sessions, "InitialSync", lambda *_: copy)
    monkeypatch.setattr(sessions, "SchemaChange", lambda *_: copy)
    scene.publish()

    def restored(mark: str, begun: str) -> str | None:
        assert begun == (mark if last is None else watermark(5))
        return "restored" if mark == watermark(30) else None

    scene.lineage.refuse = restored
    sent = [message[0] for message in scene.run()]
    assert sent == (["begin", "data"] if last is None else ["begin", "data", "rollback", "control"])
    assert scene.peer.closed is not None
    assert ("restored" in scene.peer.closed[1]) is (last is None)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("error", [SourceUnavailable, ResumeLost])
def test_schema_change_that_fails_is_rolled_back(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], begun: bool
) -> None:
    """A second begin in a transaction ends zero-cache."""
    scene = Scene()
    scene.publish()

    def fail() -> None:
        raise error("MongoDB is away")

    whole = [protocol.begin(watermark(30)), data("a"), data("b"), protocol.commit(watermark(30), 30)]
    copies = [FakeCopy(*whole[: 3 if begun else 1], fail, publication=OTHER), FakeCopy(*whole, publication=OTHER)]
    monkeypatch.setattr(sessions, "SchemaChange", lambda *_: copies.pop(0))
    sent = scene.run()
    failed = [*transaction(30, "a")[:-1], ROLLBACK] if begun else []
    if error is SourceUnavailable:
        assert sent == [*failed, *transaction(30, "a", "b")]
    else:
        assert sent == [*failed, reset("MongoDB is away", "position-lost", watermark(10))]


def test_client_resumes_where_its_initial_sync_ended() -> None:
    """The client sends the watermark of the initial sync, which contains the changes up to a later one."""
    record = ReplicaRecord(None, (CopyRecord(watermark(30), watermark(40), PUBLISHED.fingerprint),))
    for last, at in ((30, 40), (31, 31)):
        scene = Scene(last=watermark(last))
        scene.store.records[REPLICA] = record
        scene.run()
        assert scene.watermarks == [watermark(at)]
