"""The monitor: rates, lag, backlog, and the summary of the state."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.certificates import ONE
from tests.unit.fakes import FakeDispatcher, FakeLineage, FakeSession, FakeSource, FakeStore, active, hub, table
from zmsd import position
from zmsd.bson_types import Document
from zmsd.config.settings import TlsConfig
from zmsd.errors import SourceUnavailable
from zmsd.gateway import tls
from zmsd.gateway.session import Session
from zmsd.metadata import monitor as monitors
from zmsd.metadata.monitor import HISTORY_SAMPLES, SAMPLE_INTERVAL_SECONDS, Monitor, memory_bytes
from zmsd.metadata.progress import MajorityCommitPoint
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.sequencer import TransactionPart
from zmsd.replication.catch_up import CatchUpFeeds
from zmsd.replication.change_log import Entry
from zmsd.replication.initial_sync import InitialSync
from zmsd.schema.catalog import Catalog
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import Replica


def position_of(ago: float) -> int:
    """Return the position of that many seconds ago."""
    return int(time.time() - ago) << 32


def mark(ago: float) -> str:
    return position.watermark(position_of(ago))


def entry(ago: float, rows: int = 1, **more: Any) -> Entry:
    return Entry(mark(ago), int((time.time() - ago) * 1000), rows, b"x" * rows, **more)


def part(ago: float, *collections: str) -> TransactionPart:
    wall = datetime.datetime.fromtimestamp(time.time() - ago, datetime.UTC).replace(tzinfo=None)
    events = [ChangeEvent({}, "insert", name, wall_time=wall) for name in collections]
    return TransactionPart(position_of(ago), events, True, True)


class MonitorSource(FakeSource):
    """A source with the reply to ``hello`` that a test sets."""

    def __init__(self) -> None:
        super().__init__(time=0)
        self.hello: dict[str, Any] = {}

    def command(self, command: Document) -> Document:
        return self.hello


class StalledFeeds(CatchUpFeeds):
    """Catch-up feeds of which one waits for MongoDB, if a test says why."""

    why: str | None = None

    def stalled(self, seconds: float) -> str | None:
        return self.why


class Scene:
    """A monitor, and the fakes that it samples."""

    def __init__(self) -> None:
        self.source, self.store, self.lineage = MonitorSource(), FakeStore(), FakeLineage()
        tables = (table("user", "users"), table("room", "rooms"))
        self.hub = hub(
            source=self.source,
            store=self.store,
            lineage=self.lineage,
            published=active(Publication(Catalog(tables)), self.source),
        )
        self.catch_up = StalledFeeds(self.source, self.hub.log, 4)
        self.hub.catch_up = self.catch_up
        self.log, self.readiness, self.counters = self.hub.log, self.hub.readiness, self.hub.counters
        self.sessions: list[Session] = []
        self.dispatcher = FakeDispatcher(self.hub)
        self.dispatcher.at = position_of(0)
        self.monitor = Monitor(self.hub, self.dispatcher, lambda: self.sessions)

    def client(self, **state: Any) -> FakeSession:
        """Return a connected client; the arguments are those of FakeSession."""
        session = FakeSession(self.hub, number=len(self.sessions) + 1, **state)
        self.sessions.append(session)
        return session

    def happens(self, parts: Sequence[TransactionPart], entries: Sequence[Entry]) -> None:
        self.counters.read(parts)
        if entries:
            self.counters.made(entries)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_rates_are_averaged_over_the_samples(scene: Scene) -> None:
    monitor = scene.monitor
    monitor.sample(100.0)
    scene.happens([part(0, "users", "users", "rooms")], [entry(0)])
    monitor.sample(102.0)
    assert monitor.rates == {"users": 1.0, "rooms": 0.5}
    assert monitor.history[-1].rate == 1.5
    scene.happens([part(0, "users")], [entry(0)])
    monitor.sample(104.0)
    assert monitor.rates == {"users": 0.75, "rooms": 0.25}
    assert monitor.history[-1].rate == 0.5
    for step in range(10):
        monitor.sample(106.0 + 2 * step)
    assert monitor.rates == {"users": 0.0, "rooms": 0.0}
    assert scene.counters.events == {"users": 3, "rooms": 1}
    assert scene.counters.transactions == 2


def test_late_sample_does_not_exaggerate_the_rate(scene: Scene) -> None:
    scene.monitor.sample(100.0)
    scene.happens([part(0, *["users"] * 30)], [entry(0)])
    scene.monitor.sample(115.0)
    assert scene.monitor.history[-1].rate == 2.0
    assert scene.monitor.rates["users"] == 2.0


def test_history_is_bounded(scene: Scene) -> None:
    for step in range(HISTORY_SAMPLES + 20):
        scene.monitor.sample(100.0 + step * SAMPLE_INTERVAL_SECONDS)
    assert len(scene.monitor.history) == HISTORY_SAMPLES


def test_lag_is_the_longest_since_the_last_sample(scene: Scene) -> None:
    scene.happens([part(3, "users"), part(1, "users")], [entry(3), entry(1)])
    scene.happens([part(0, "users")], [entry(0)])
    scene.monitor.sample(100.0)
    assert scene.monitor.history[-1].lag == pytest.approx(3, abs=0.5)
    assert scene.counters.lags["users"] == pytest.approx(0, abs=0.5)
    scene.monitor.sample(102.0)
    assert scene.monitor.history[-1].lag == 0
    scene.readiness.set("MongoDB is away")
    scene.dispatcher.at = position_of(30)
    scene.monitor.sample(104.0)
    assert scene.monitor.history[-1].lag == pytest.approx(30, abs=2)


def test_lag_counts_only_commits_since_the_client_connected(scene: Scene) -> None:
    now = time.time()
    scene.counters.sent([entry(600), entry(0)], now - 60, 1)
    assert scene.counters.lag.value().count == 0
    scene.counters.sent([entry(0, rows=0), entry(30), entry(0)], now - 60, 1)
    assert scene.counters.lag.value().sum == pytest.approx(30, abs=1)
    assert scene.counters.sent_rows.value() == 4


def test_lag_of_a_replica_is_the_longest_send_or_the_oldest_waiting_change(scene: Scene) -> None:
    monitor, replica = scene.monitor, Replica("zero", 0, "00")
    scene.log.start(mark(60), "")
    first, newest = entry(40), entry(20)
    session = scene.client(last=replica.version, sent=newest.watermark)
    scene.client(shard=1)
    scene.log.extend([first, newest])
    scene.counters.sent([first], time.time() - 60, session.number)
    scene.counters.sent([newest], time.time() - 60, session.number)
    monitor.sample(100.0)
    monitor.sample(102.0)
    session.reached = first.watermark
    monitor.sample(104.0)
    scene.readiness.set("MongoDB is away")
    scene.dispatcher.at = position_of(90)
    monitor.sample(106.0)
    scene.sessions.clear()
    monitor.sample(108.0)
    lags = monitor.replica_lags.of(replica)
    assert lags == [pytest.approx(40, abs=1), 0.0, pytest.approx(20, abs=1), pytest.approx(90, abs=2), None]
    assert not monitor.replica_lags.of(Replica("zero", 1, "")), "it has its initial sync before it"


def test_position_age_and_oplog_headroom_are_measured(scene: Scene) -> None:
    monitor = scene.monitor
    assert monitor.oplog_headroom is None
    scene.dispatcher.at = position_of(5)
    scene.source.first = position_of(3605)
    monitor.check_mongodb()
    assert monitor.oplog_headroom == pytest.approx(3600, abs=1)
    assert monitor.position_age == pytest.approx(5, abs=2)
    scene.dispatcher.at = None
    assert monitor.oplog_headroom is None
    assert monitor.position_age is None


def test_backlog_of_a_client_is_measured(scene: Scene) -> None:
    monitor = scene.monitor
    scene.log.start(mark(100), "edition")
    scene.log.extend([entry(50), entry(40), entry(30)])
    nothing = monitor.backlog(scene.client(sent=mark(30)))
    assert nothing == (0.0, 0)
    some = monitor.backlog(scene.client(sent=mark(50)))
    assert some is not None
    assert some.transactions == 2
    assert some.seconds == pytest.approx(40, abs=2)
    older = monitor.backlog(scene.client(sent=mark(500)))
    assert older is not None
    assert older.transactions is None
    assert older.seconds == pytest.approx(500, abs=2)
    assert monitor.backlog(scene.client()) is None


def test_age_of_the_last_acknowledgement_is_measured(scene: Scene) -> None:
    monitor = scene.monitor
    assert monitor.acked_age(scene.client()) is None
    assert monitor.acked_age(scene.client(last=mark(70))) == pytest.approx(70, abs=2)
    assert monitor.acked_age(scene.client(last=mark(70), acked=mark(7))) == pytest.approx(7, abs=2)


def test_client_that_has_confirmed_everything_has_age_zero(scene: Scene) -> None:
    """After a long initial sync, the newest commit is as old as the position at which its rows were read."""
    monitor = scene.monitor
    scene.log.start(mark(20), "edition")
    copied = {"sent": mark(700), "acked": mark(700)}
    assert monitor.acked_age(scene.client(**copied)) == pytest.approx(700, abs=2)
    client = scene.client(**copied, streamed_to=mark(10))
    assert monitor.backlog(client) == (0.0, 0)
    assert monitor.acked_age(client) == 0.0
    scene.log.extend([entry(5)])
    assert monitor.acked_age(client) == pytest.approx(700, abs=2)


def test_idle_database_is_not_behind(scene: Scene) -> None:
    """MongoDB writes a no-op every ten seconds."""
    monitor = scene.monitor
    scene.dispatcher.at = position_of(9)
    assert monitor.behind == pytest.approx(9, abs=2)
    for _ in range(2):
        scene.source.time = position_of(9)
        monitor.check_published()
    assert monitor.behind == 0.0
    for _ in range(2):
        scene.source.time = position_of(3)
        monitor.check_published()
    assert monitor.behind == pytest.approx(9, abs=2)


def test_oplog_note_gives_the_right_reason(scene: Scene) -> None:
    monitor = scene.monitor
    assert monitor.oplog_note == "not read yet"
    monitor.check_mongodb()
    assert monitor.oplog_note == "zmsd may not read local.oplog.rs"
    scene.source.first = position_of(3600)
    monitor.check_mongodb()
    assert monitor.oplog_note == "zmsd may be stopped for this long"
    scene.source.trouble = SourceUnavailable("away")
    monitor.check_mongodb()
    assert monitor.oplog_note == "MongoDB cannot be reached; this is an old value"
    assert monitor.oplog_headroom is not None


def test_certificate_that_ends_soon_is_warned_of_and_its_end_is_known(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = ONE.write(tmp_path)
    end = tls.expiry(Path(files["cert"]))
    assert end is not None
    scene.monitor.watch_certificate(TlsConfig(Path(files["cert"]), Path(files["key"])))
    assert scene.monitor.certificate_end == end
    assert not caplog.records
    monkeypatch.setattr(monitors, "time", SimpleNamespace(time=lambda: end + 1.0))
    scene.monitor.check_certificate()
    (line,) = [str(record.msg) for record in caplog.records]
    assert line.startswith("certificate must be renewed")
    assert "expired at" in line
    scene.monitor.watch_certificate(None)
    assert scene.monitor.certificate_end is None


def test_state_is_summarised_in_words(scene: Scene) -> None:
    monitor = scene.monitor
    assert monitor.summary() == "serving 2 collections, no client is connected"
    scene.client()
    assert monitor.summary() == "serving 2 collections to 1 client"
    scene.client(copy=InitialSync(scene.source, scene.hub.active, "zero", 0, Event(), ""))
    assert monitor.summary() == "serving 2 collections to 2 clients, 1 copying"
    scene.readiness.set("MongoDB is away")
    assert monitor.summary() == "not ready: MongoDB is away; 2 clients waiting"
    scene.store.failing = "NATS is away"
    assert monitor.summary().endswith("; 2 clients waiting; the watermark store cannot be written")
    scene.store.failing = None
    monitor.reloaded(["zmsd.yaml:1:1: wrong"])
    assert monitor.summary() == "not ready: MongoDB is away; 2 clients waiting; the last reload was refused"
    scene.sessions.clear()
    scene.readiness.set(None)
    monitor.reloaded(restart=["mongodb"])
    assert monitor.summary() == "serving 2 collections, no client is connected"
    assert monitor.reloads == {"ok": 1, "refused": 1}


def test_memory_of_the_process_is_read() -> None:
    assert 5e6 < memory_bytes() < 5e9


def test_reason_names_what_is_waited_for(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    monitor = scene.monitor
    caplog.set_level("INFO")
    assert monitor.reason is None
    scene.dispatcher.waits = "order: MongoDB has not answered for 16 s"
    assert monitor.summary() == "not ready: order: MongoDB has not answered for 16 s"
    for now in (100.0, 102.0, 111.0, 112.0, 122.0):
        monitor.sample(now)
    scene.readiness.set("MongoDB is away")
    assert monitor.reason == "MongoDB is away", "the error says enough"
    scene.dispatcher.waits = None
    scene.readiness.set("starting")
    scene.lineage.search = ("the change at watermark x", 1.0)
    monitor.sample(113.0)
    assert monitor.reason == "starting"
    scene.lineage.search = ("the change at watermark x", 12.0)
    assert monitor.reason == "starting; MongoDB has been scanning its oplog for 12 s for the change at watermark x"
    lines = [str(record.msg) for record in caplog.records]
    assert lines == [*['no progress reason="order: MongoDB has not answered for 16 s"'] * 2, "progress again"]


def test_stalled_catch_up_feed_is_logged_and_others_are_served(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.catch_up.why = "catch-up feed of the client at watermark x: MongoDB has not answered for 16 s"
    scene.monitor.sample(100.0)
    assert scene.monitor.reason is None
    assert scene.monitor.summary() == f"serving 2 collections, no client is connected; {scene.catch_up.why}"
    assert [str(record.msg) for record in caplog.records] == [f'no progress reason="{scene.catch_up.why}"']


def test_majority_commit_point_that_stands_still_is_the_reason(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    def hello(majority: int, newest: int) -> dict[str, Any]:
        return {"lastWrite": {"majorityOpTime": {"ts": majority, "t": 1}, "opTime": {"ts": newest, "t": 1}}}

    now = 0.0
    watch = scene.monitor.progress.majority = MajorityCommitPoint(lambda: now)
    watch.observe(hello(5, 7))
    now = 40.0
    watch.observe(hello(5, 7))
    assert (watch.stalled_seconds, scene.monitor.reason) == (0, None), "the primary has written nothing either"
    watch.observe(hello(5, 8))
    assert watch.stalled_seconds == 40
    assert (scene.monitor.reason or "").startswith("MongoDB's majority commit point has not moved for 40 s")
    scene.monitor.sample(100.0)
    assert "no progress" in caplog.text
    assert "majority commit point has not moved for 40 s" in caplog.text
    watch.observe(hello(6, 8))
    assert (watch.stalled_seconds, scene.monitor.reason) == (0, None)
    now = 60.0
    watch.observe(hello(6, 9))
    assert (watch.stalled_seconds, scene.monitor.reason) == (20, None), "an election takes less"
    watch.observe({"msg": "isdbgrid"})
    assert watch.stalled_seconds == 0
