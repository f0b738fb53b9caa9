"""A reader repeats what fails for a time, reports it, and never loses the events that it has."""

from __future__ import annotations

import time
from threading import Event

import pytest
from bson import Timestamp
from pymongo.errors import AutoReconnect, NetworkTimeout

from tests.unit.mongodb.streams import ScriptedSource, T, batch, cursor, event, failure, read
from zmsd.errors import SourceRefused, SourceTimeout, SourceUnavailable
from zmsd.mongodb import reader as readers
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.reader import Health, OrderReader, Reader, reader_thread
from zmsd.prometheus import Counter


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "REFUSED_WAIT_SECONDS", 0.01)


class Filling(Reader):
    """Completes its events once the test allows it."""

    def __init__(self, script: ScriptedSource, *troubles: Exception) -> None:
        self.health = Health()
        self.stop = Event()
        self.troubles = list(troubles)
        super().__init__("reader", cursor(script), self.stop, self.health)

    def fill(self, events: list[ChangeEvent]) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        for one in events:
            one.after = {"filled": True}


class RecordedEvent(Event):
    """An event that is never set, and whose waits take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


def test_failure_is_reported_until_the_next_success() -> None:
    reader = Filling(ScriptedSource(database=[AutoReconnect("away"), failure(13), batch(event(T + 1))]))
    assert reader.read_batch() is None
    assert "away" in str(reader.health.problem)
    assert reader.read_batch() is None
    assert "code 13" in str(reader.health.problem)
    assert reader.read_batch() is not None
    assert reader.health.problem is None


def test_failure_is_reported_before_the_wait_and_the_wait_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher reads MongoDB itself: meanwhile it reports the failure on /readyz, and notices a stop."""
    monkeypatch.setattr(readers, "REFUSED_WAIT_SECONDS", 1000.0)
    script = ScriptedSource(database=[failure(13), batch(event(T + 1))])
    stop = RecordedEvent()
    reader = Reader("order", cursor(script), stop, Health())
    assert reader.read_batch() is None
    assert not any(stop.waits)
    stop.waits.clear()
    assert "code 13" in str(reader.health.problem)
    for _ in range(3):
        assert reader.read_batch() is None
    assert stop.waits == [1.0] * 3
    assert len(script.opened) == 1


def test_events_that_cannot_be_completed_are_reported_before_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "REFUSED_WAIT_SECONDS", 1000.0)
    reader = Filling(ScriptedSource(database=[batch(event(T + 1))]), SourceRefused("not authorized"))
    waits = reader.stop = RecordedEvent()
    reader._stop = waits
    assert reader.read_batch() is None
    assert not any(waits.waits)
    assert "not authorized" in str(reader.health.problem)


def test_stop_while_a_reader_waits_is_followed_by_no_request() -> None:
    script = ScriptedSource(database=[AutoReconnect("away"), batch(event(T + 1))])
    stop = Event()
    reader = Reader("order", cursor(script), stop, Health())
    assert reader.read_batch() is None
    stop.set()
    assert reader.read_batch() is None
    assert len(script.opened) == 1


def test_busy_server_is_given_longer_and_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that gave up would begin again with a short deadline, and never open an old position."""
    monkeypatch.setattr(readers, "_GIVE_UP_SECONDS", -1.0)
    script = ScriptedSource(database=[failure(50), failure(50), batch(event(T + 1)), NetworkTimeout("timed out")])
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
    reader = Filling(ScriptedSource(database=[batch(event(T + 1))]), trouble, trouble)
    got: list[ChangeEvent] = []
    while not got:
        found = reader.read_batch()
        got += found.events if found else []
    assert [one.after for one in got] == [{"filled": True}]


def test_events_that_could_not_be_completed_do_not_delay_a_stop() -> None:
    reader = Filling(ScriptedSource(database=[batch(event(T + 1))]), *[SourceUnavailable("away")] * 3)
    reader.stop.set()
    assert reader.read_batch() is None


def test_stream_reopens_after_an_invalidate() -> None:
    drop, end = event(T + 2, 1, kind="drop"), event(T + 2, 2, kind="invalidate")
    script = ScriptedSource(a=[batch(event(T + 1), drop, end), batch(event(T + 3))])
    reader = Reader("a", cursor(script, "a"), Event(), Health())
    first, second = reader.read_batch(), reader.read_batch()
    assert first is not None
    assert second is not None
    assert (first.events, second.events) == (read(event(T + 1), drop), read(event(T + 3)))
    assert script.opened[-1] == ("a", {"startAtOperationTime": Timestamp(T >> 32, 23)})


def test_order_reader_asks_for_nothing_but_the_order() -> None:
    script = ScriptedSource(database=[batch(event(T + 1))])
    reader = OrderReader(script, ["b", "a"], T, Event(), Health())
    assert reader.read_batch() is not None
    match, project = script.pipelines[0]
    assert {"ns.coll": {"$in": ["a", "b"]}} in match["$match"]["$or"]
    assert set(project["$project"]) == {"ns.coll", "to.coll", "operationType"}


def test_reader_thread_passes_on_batches_with_events() -> None:
    script = ScriptedSource(database=[batch(upto=T + 1), batch(event(T + 2))])
    stop = Event()
    producer = reader_thread(Reader("collection-a", cursor(script), stop, Health()), stop)
    producer.start()
    first = producer.channel.get(10)
    assert first is not None
    assert first.events
    stop.set()
    producer.channel.close()
    producer.thread.join(10)
    assert script.killed == [1], "the thread closes the stream"


def test_reader_thread_that_fails_for_good_is_known_to_the_feed() -> None:
    health, stop = Health(), Event()
    producer = reader_thread(
        Reader("collection-a", cursor(ScriptedSource(database=[failure(286)])), stop, health), stop
    )
    producer.start()
    producer.thread.join(10)
    with pytest.raises(Exception, match="code 286"):
        health.check()


# HEALTH


def test_reader_that_retries_or_opens_may_be_quiet() -> None:
    failures = Counter()
    health = Health(failures)
    assert health.quiet_deadline == 0
    health.opening("order")
    assert health.quiet_deadline - time.monotonic() > 600, "the server scans the oplog"
    assert health.problem is None
    health.failed("order", "away", 10.0)
    assert 60 < health.quiet_deadline - time.monotonic() <= 70
    health.failed("users", "not authorized", 0.1)
    assert health.problem == "order: away; users: not authorized"
    assert failures.value() == 2
    health.succeeded("order")
    assert 59 < health.quiet_deadline - time.monotonic() <= 60.1
    health.succeeded("users")
    assert health.quiet_deadline == 0
    assert health.problem is None


def test_reader_that_gets_no_answer_is_named() -> None:
    health = Health()
    health.opening("order")
    health.asks("order")
    health.asks("users")
    assert health.stalled(15) is None
    assert health.stalled(0) == (
        "order: MongoDB has been scanning its oplog for 0 s to open the change stream; "
        "users: MongoDB has not answered for 0 s"
    )
    health.answered("order")
    health.answered("users")
    assert health.stalled(0) is None
