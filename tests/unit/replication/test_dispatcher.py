"""The dispatcher with a scripted Feed, and an Encoder that makes an entry of each part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event

import pytest

from tests.support.wait import wait_until
from tests.unit.fakes import START, FakeActive, FakeLineage, FakeSource, FakeStore, hub
from zmsd import position
from zmsd.errors import ResumeLost, SourceRefused, SourceUnavailable, StoreError
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.feed import Feed
from zmsd.mongodb.reader import Health
from zmsd.mongodb.sequencer import FeedBatch, TransactionPart
from zmsd.replication import dispatcher as dispatchers
from zmsd.replication.change_log import ChangeLog, LogCursor
from zmsd.replication.dispatcher import Dispatcher
from zmsd.watermarks.base import CopyRecord, Replica, ReplicaRecord

Step = FeedBatch | BaseException | Callable[[], object] | None


def part(at: int, text: str = "x", *, first: bool = True, last: bool = True) -> TransactionPart:
    return TransactionPart(
        START + at, [ChangeEvent({"_data": f"82{START + at:016X}"}, "insert", after={"text": text})], first, last
    )


def parts(*made: TransactionPart, upto: int) -> FeedBatch:
    return FeedBatch(list(made), START + upto)


def text(made: TransactionPart) -> str | None:
    """Return the text in a part's event; None without events."""
    if not made.events:
        return None
    found = str((made.events[0].after or {})["text"])
    if found == "fails":
        raise SourceUnavailable("away")
    return found


class CountingLineage(FakeLineage):
    """A lineage that a dispatcher asks; ``check`` is called for each question."""

    check: Callable[[str, str], None] = lambda self, watermark, since: None

    def check_watermark(self, watermark: str, since: str) -> None:
        super().check_watermark(watermark, since)
        self.check(watermark, since)


class FakeFeed(Feed):
    """A feed with scripted steps: batches, errors, and functions to call."""

    scope = "database"

    def __init__(self, steps: list[Step], after: int) -> None:
        self.steps = steps
        self.closed = False
        self._health = Health()
        self._progress = after

    @property
    def health(self) -> Health:
        return self._health

    def read(self) -> FeedBatch | None:
        if not self.steps:
            Event().wait(0.002)  # as an idle one does
            return FeedBatch([], self._progress)
        step = self.steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        if callable(step):
            step()
            return None
        if step is not None:
            self._progress = step.progress
        return step

    def close(self) -> None:
        self.closed = True


class Scene:
    """A dispatcher, the feeds that it opens in order, and its log."""

    def __init__(self, *feeds: list[Step] | BaseException, prepare: list[int | BaseException] | None = None) -> None:
        self.source, self.store, self.lineage = FakeSource(), FakeStore(), CountingLineage()
        self.active = FakeActive(text, "f")
        self.hub = hub(source=self.source, store=self.store, lineage=self.lineage, published=self.active)
        self.log = self.hub.log = ChangeLog()
        self.readiness = self.hub.readiness
        self.readiness.set("starting")
        self.feeds = list(feeds)
        self.opened: list[int] = []
        self.made: list[FakeFeed] = []
        self.deaths: list[str] = []
        self.prepared = prepare or []
        self.heartbeat = 1000.0

    @contextmanager
    def running(self) -> Iterator[Dispatcher]:
        one = Dispatcher(self.hub, self._prepare, self._open, self.heartbeat, self.deaths.append)
        one.thread.start()
        try:
            yield one
        finally:
            one.stop()
            one.thread.join(10)
            assert not one.thread.is_alive()

    def _prepare(self, active: object) -> int:
        found = self.prepared.pop(0) if self.prepared else START
        if isinstance(found, BaseException):
            raise found
        return found

    def _open(self, active: object, after: int) -> FakeFeed:
        self.opened.append(after - START)
        steps = self.feeds.pop(0) if self.feeds else []
        if isinstance(steps, BaseException):
            raise steps
        self.made.append(FakeFeed(steps, after))
        return self.made[-1]

    def tail(self, after: int = 0, published: FakeActive | None = None) -> LogCursor:
        found = self.log.tail(position.watermark(START + after), (published or self.active).fingerprint)
        assert found is not None
        return found

    def wait_head(self, at: int) -> None:
        wait_until(lambda: self.log.head == position.watermark(START + at), f"the log is at {at}")


def texts(tail: LogCursor) -> list[str]:
    return [entry.frames.decode() for entry in tail.take(1000, 1 << 30, 0)]


def pass_time(seconds: float) -> None:
    over = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > over, f"{seconds} s have passed")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatchers, "REFUSED_WAIT_SECONDS", 0.01)


def test_feed_is_retried_when_the_connection_cannot_be_renewed() -> None:
    """As if the names of mongodb+srv could not be resolved."""
    away = SourceUnavailable("away")
    scene = Scene([away], [away], [away], [parts(part(1), upto=1)])
    scene.source.reconnect_trouble = SourceRefused("no such name")
    with scene.running():
        scene.wait_head(1)
    assert scene.source.reconnects
    assert not scene.deaths


def test_unwritable_store_is_waited_for() -> None:
    scene = Scene([parts(part(1), upto=1)], prepare=[StoreError("disk full"), START])
    with scene.running():
        scene.wait_head(1)
    assert not scene.deaths


def test_last_checkpoint_is_stored_at_the_end() -> None:
    scene = Scene([parts(part(1), upto=1), parts(part(2), upto=2)])
    with scene.running():
        scene.wait_head(2)
    assert list(scene.store.checkpoints) == [position.watermark(START + 1), position.watermark(START + 2)]


def test_changes_are_appended_to_the_log() -> None:
    scene = Scene([parts(part(1, "a"), part(2, "b"), upto=5), parts(part(7, "c"), upto=7)])
    with scene.running() as dispatcher:
        scene.wait_head(7)
        assert texts(scene.tail()) == ["a", "b", "c"]
        wait_until(lambda: scene.readiness.reason is None, "it is ready")
        assert dispatcher.is_alive()
        wait_until(lambda: dispatcher.position == START + 7, "all of it is there")
    assert scene.opened == [0]
    assert scene.made[0].closed
    assert not scene.deaths
    assert scene.readiness.reason is not None, "and no more when it has stopped"
    assert not dispatcher.is_alive()


@pytest.mark.parametrize("failure", [SourceUnavailable("away"), SourceRefused("not authorized")])
def test_failed_feed_reopens_at_its_progress(failure: Exception) -> None:
    reasons: list[str | None] = []
    scene = Scene(
        [parts(part(1, "a"), part(3, "torn", last=False), upto=2), failure],
        [lambda: reasons.append(scene.readiness.reason), parts(part(3, "whole"), upto=4)],
    )
    with scene.running() as dispatcher:
        wait_until(lambda: dispatcher.position == START + 4, "all was read")
        assert texts(scene.tail()) == ["a", "whole"]
    assert scene.opened == [0, 2]
    assert scene.lineage.checks == [(position.watermark(START + 2), position.watermark(START))]
    assert reasons == [str(failure)]
    assert all(feed.closed for feed in scene.made)
    assert not scene.deaths


def test_entries_before_a_failure_within_a_batch_are_not_repeated() -> None:
    scene = Scene([parts(part(1, "a"), part(3, "fails"), upto=4)], [parts(part(3, "b"), upto=4)])
    with scene.running() as dispatcher:
        wait_until(lambda: dispatcher.position == START + 4, "all was read")
        assert texts(scene.tail()) == ["a", "b"]
    assert scene.opened == [0, 1]
    assert not scene.deaths


def test_dispatcher_is_not_ready_until_the_database_can_be_watched() -> None:
    scene = Scene([], prepare=[SourceRefused("standalone"), SourceUnavailable("away"), START + 9])
    with scene.running():
        wait_until(lambda: scene.readiness.reason is None, "it is ready")
        assert scene.opened == [9]
        assert scene.log.head == position.watermark(START + 9)


def test_problem_of_a_reader_is_the_reason_until_it_ends() -> None:
    scene = Scene([])
    with scene.running():
        wait_until(lambda: scene.made and scene.readiness.reason is None, "it is ready")
        scene.made[0].health.failed("order", "away", 1.0)
        wait_until(lambda: scene.readiness.reason == "order: away", "it is shown")
        scene.made[0].health.succeeded("order")
        wait_until(lambda: scene.readiness.reason is None, "it is over")


def test_lost_position_restarts_the_log() -> None:
    """Readers of the former log are evicted, and look up by themselves what can still be read."""
    scene = Scene(
        [parts(part(1, "a"), upto=2), ResumeLost("gone")],
        [parts(part(50, "b"), upto=50), SourceUnavailable("away")],
        prepare=[START, START + 40],
    )
    with scene.running():
        scene.wait_head(50)
        wait_until(lambda: len(scene.opened) == 3, "it has failed once more")
        assert scene.lineage.checks == [(position.watermark(START + 50), position.watermark(START + 40))]
        assert scene.log.tail(position.watermark(START + 2), scene.active.fingerprint) is None
        assert texts(scene.tail(40)) == ["b"]
    assert scene.opened == [0, 40, 50]


@pytest.mark.parametrize("lost", [False, True])
def test_lineage_is_checked_after_a_failure_of_a_reader(lost: bool) -> None:
    """The reader has retried by itself; an older state may have been restored meanwhile."""

    def check(mark: str, begun: str) -> None:
        assert scene.lineage.distrust_count == 1
        assert (mark, begun) == (position.watermark(START + 2), position.watermark(START))
        assert texts(scene.tail()) == ["a"]
        if lost:
            raise ResumeLost("restored")

    def recover() -> None:
        scene.source.recoveries.inc()
        scene.made[0].steps.insert(0, parts(part(3, "b"), upto=4))

    scene = Scene([parts(part(1, "a"), upto=2), recover], [], prepare=[START, START + 40])
    scene.lineage.check = check  # type: ignore[method-assign]
    with scene.running() as dispatcher:
        wait_until(lambda: dispatcher.position == START + (40 if lost else 4), "all was read")
        assert lost or texts(scene.tail()) == ["a", "b"]
    assert scene.opened == ([0, 40] if lost else [0])
    assert not scene.deaths


def test_repeatedly_lost_position_is_retried_with_backoff() -> None:
    scene = Scene(*[[ResumeLost("gone")] for _ in range(100_000)])
    with scene.running():
        wait_until(lambda: len(scene.opened) >= 3, "it has been tried again")
        known = len(scene.opened)
        pass_time(0.2)
        assert len(scene.opened) - known < 20


def test_new_publication_begins_at_the_reached_position() -> None:
    scene = Scene([parts(part(1, "a"), upto=4)], [parts(part(6, "b"), upto=6)])
    with scene.running() as dispatcher:
        scene.wait_head(1)
        wait_until(lambda: dispatcher.position == START + 4, "all was read")
        new = FakeActive(text, "g")
        dispatcher.publish(new)
        scene.wait_head(6)
        assert scene.hub.active is new
        assert texts(scene.tail(4, new)) == ["b"]
    assert scene.opened == [0, 4]
    assert scene.made[0].closed


def test_changed_deployment_is_prepared_and_read_by_another_feed() -> None:
    """Open streams keep the options with which they were opened, such as without images."""
    scene = Scene([parts(part(1, "a"), upto=4)], [parts(part(6, "b"), upto=6)])
    with scene.running() as dispatcher:
        wait_until(lambda: dispatcher.position == START + 4, "all was read")
        scene.source.deployment = replace(scene.source.deployment, version=(7, 0, 28))
        scene.wait_head(6)
        assert texts(scene.tail()) == ["a", "b"]
    assert scene.opened == [0, 4]
    assert scene.made[0].closed


def test_heartbeat_carries_the_position() -> None:
    """Heartbeats are at multiples of the interval, never go back, and never come within a transaction."""
    second = 1 << 32
    scene = Scene(
        [
            parts(upto=3 * second + 7),
            parts(part(5 * second + 1, "a", last=False), upto=4 * second),
            parts(upto=4 * second),
            parts(part(5 * second + 1, "b", first=False), upto=6 * second),
            parts(upto=6 * second - 1),
            parts(upto=7 * second + 2),
        ]
    )
    scene.heartbeat = 0.0
    with scene.running():
        scene.wait_head(7 * second)
        got = [(entry.watermark, entry.frames, entry.ends_transaction) for entry in scene.tail().take(100, 1 << 30, 0)]
    marks = [position.watermark(START + at) for at in (3 * second, 5 * second + 1, 5 * second + 1, 7 * second)]
    assert got == list(zip(marks, (b"", b"a", b"b", b""), (True, False, True, True), strict=True))


def test_progress_within_the_interval_sends_no_heartbeat() -> None:
    scene = Scene([parts(upto=at) for at in range(1, 50)])
    with scene.running() as dispatcher:
        wait_until(lambda: dispatcher.position == START + 49, "all was read")
        assert scene.log.head == position.watermark(START)


def test_checkpoints_are_stored_at_intervals() -> None:
    scene = Scene([parts(part(at), upto=at) for at in range(1, 30)])
    scene.store.failing = "disk full"
    with scene.running():
        scene.wait_head(29)
        assert 1 <= scene.store.writes.count("record_checkpoint") <= 10, "and that it fails costs nothing"
        scene.store.failing = None
    assert scene.store.checkpoints == {position.watermark(START + 29): f"82{START + 29:016X}"}


def test_record_of_a_client_that_never_came_back_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatchers, "IDENTITY_INTERVAL_SECONDS", 0.0)
    hours = 3600 << 32
    scene = Scene([parts(upto=hours // 2), parts(upto=2 * hours)])
    known = Replica("zero", 0, position.watermark(START)), Replica("bogus", 0, position.watermark(START))
    copy = CopyRecord(known[0].version, known[0].version, "f")
    scene.store.records = {
        known[0]: ReplicaRecord(copy.watermark, (copy,)),
        known[1]: ReplicaRecord(None, (copy,)),  # it has acknowledged nothing
    }
    with scene.running() as dispatcher:
        wait_until(lambda: dispatcher.position == START + 2 * hours, "all was read")
        wait_until(lambda: set(scene.store.records) == {known[0]}, "the record is dropped")


def test_unexpected_error_is_reported_as_thread_death() -> None:
    """systemd restarts the process; continuing with a wrong log would be worse."""
    scene = Scene([parts(part(5), upto=5), parts(part(5), upto=5)])
    with scene.running() as dispatcher:
        wait_until(lambda: scene.deaths == ["dispatcher"], "the death is reported")
        wait_until(lambda: not dispatcher.is_alive(), "the thread has ended")
    assert scene.made[0].closed
    assert scene.readiness.reason is not None


def test_dispatcher_that_waits_to_retry_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatchers, "REFUSED_WAIT_SECONDS", 60.0)
    monkeypatch.setattr(dispatchers, "HANGING_SECONDS", 0.2)
    scene = Scene(prepare=[SourceRefused("standalone")])
    with scene.running() as dispatcher:
        wait_until(lambda: scene.readiness.reason == "standalone", "it has failed")
        pass_time(0.3)
        assert dispatcher.is_alive()


def test_dispatcher_that_hangs_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatchers, "HANGING_SECONDS", 0.05)
    held = Event()
    scene = Scene([lambda: held.wait(10), parts(upto=1)])
    with scene.running() as dispatcher:
        wait_until(lambda: not dispatcher.is_alive(), "the watchdog is not fed any more")
        held.set()
        wait_until(dispatcher.is_alive, "it goes on")


def test_dispatcher_is_alive_while_a_reader_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatchers, "HANGING_SECONDS", 0.0)
    held = Event()
    scene = Scene([lambda: held.wait(10)])
    with scene.running() as dispatcher:
        wait_until(lambda: scene.made and dispatcher._feed is not None, "the feed runs")
        health = scene.made[0].health
        assert not dispatcher.is_alive()
        health.failed("users", "away", 1.0)
        assert dispatcher.is_alive()
        health.succeeded("users")
        assert not dispatcher.is_alive()
        held.set()


def test_dispatcher_without_progress_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Event()
    scene = Scene([lambda: held.wait(10)])
    with scene.running() as dispatcher:
        wait_until(lambda: scene.made and dispatcher._feed is not None, "the feed runs")
        assert dispatcher.stalled is None
        monkeypatch.setattr(dispatchers, "STALLED_SECONDS", 0.0)
        assert dispatcher.stalled == "the dispatcher has made no progress for 0 s"
        scene.made[0].health.asks("users")
        assert dispatcher.stalled == "users: MongoDB has not answered for 0 s"
        held.set()
