"""The values of the metrics that are read at each request; test_metrics_docs.py compares their names with the docs."""

from __future__ import annotations

import time
from threading import Event

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.fakes import START, FakeClock, FakeDispatcher, FakeSession, FakeStore, hub
from zmsd import position
from zmsd.metadata.metrics import register
from zmsd.metadata.monitor import Monitor
from zmsd.metadata.progress import MajorityCommitPoint
from zmsd.prometheus import Registry
from zmsd.replication.change_log import Entry
from zmsd.replication.initial_sync import InitialSync
from zmsd.replication.problems import Problem
from zmsd.schema.refresh import Refresh
from zmsd.watermarks.base import Replica


class Page:
    """The metrics page of a daemon of fakes."""

    def __init__(self) -> None:
        self.registry, self.store = Registry(), FakeStore()
        self.hub = hub(store=self.store, registry=self.registry)
        self.dispatcher = FakeDispatcher(self.hub)
        self.sessions: list[FakeSession] = []
        self.monitor = Monitor(self.hub, self.dispatcher, lambda: self.sessions)
        register(self.registry, self.monitor, Refresh(lambda: None))

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Return label values -> value of the samples of a name."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.registry.render())
            for sample in family.samples
            if sample.name == name
        }

    def value(self, name: str) -> float | None:
        return self.values(name).get(())


@pytest.fixture
def page() -> Page:
    return Page()


def ago(seconds: float) -> int:
    """Return the position of that many seconds ago."""
    return int(time.time() - seconds) << 32


def test_readiness_and_store_are_0_or_1(page: Page) -> None:
    assert (page.value("zmsd_ready"), page.value("zmsd_store_ready")) == (1, 1)
    page.hub.readiness.set("MongoDB is away")
    page.store.failing = "disk full"
    assert (page.value("zmsd_ready"), page.value("zmsd_store_ready")) == (0, 0)


def test_unknown_metric_has_no_value(page: Page) -> None:
    page.dispatcher.at = None
    for name in (
        "zmsd_position_age_seconds",
        "zmsd_oplog_headroom_seconds",
        "zmsd_tls_certificate_expiry_timestamp_seconds",
    ):
        assert page.values(name) == {}
    page.dispatcher.at = ago(5)
    assert page.value("zmsd_position_age_seconds") == pytest.approx(5, abs=2)


def test_stalled_majority_commit_point_is_shown(page: Page) -> None:
    clock = FakeClock()
    point = page.monitor.progress.majority = MajorityCommitPoint(clock)
    assert page.value("zmsd_majority_stalled_seconds") == 0
    for newest in (7, 8):
        point.observe({"lastWrite": {"majorityOpTime": {"ts": 5}, "opTime": {"ts": newest}}})
    clock.now = 40.0
    assert page.value("zmsd_majority_stalled_seconds") == 40


def test_end_of_the_certificate_is_shown(page: Page) -> None:
    page.monitor.certificate_end = 4733510400
    assert page.value("zmsd_tls_certificate_expiry_timestamp_seconds") == 4733510400


def test_problems_are_counted_by_kind_and_known_kinds_are_0(page: Page) -> None:
    page.hub.problems.current = (Problem("images", "a", "…"), Problem("images", "b", "…"), Problem("type", "c", "…"))
    assert page.values("zmsd_published_missing") == {
        ("collection",): 0,
        ("type",): 1,
        ("images",): 2,
        ("field",): 0,
    }


def test_queues_are_shown_as_a_ratio(page: Page) -> None:
    page.dispatcher.waiting = {"collection-b": (1, 2), "collection-a": (0, 2)}
    assert page.values("zmsd_queue_fill_ratio") == {("collection-b",): 0.5, ("collection-a",): 0}


def test_sessions_are_counted_by_state(page: Page) -> None:
    page.sessions = [FakeSession(page.hub), FakeSession(page.hub)]
    page.sessions[1].state = "streaming"
    assert page.values("zmsd_sessions") == {("copying",): 0, ("reset",): 0, ("streaming",): 1, ("waiting",): 1}


def test_shard_has_the_highest_value_of_its_sessions(page: Page) -> None:
    """An old connection of a zero-cache may still be open."""
    page.hub.log.start(position.watermark(ago(100)), page.hub.active.fingerprint)
    page.hub.log.extend([Entry(position.watermark(ago(50)), ago(50) // (1 << 32) * 1000, 1, b"x")])
    behind, current = position.watermark(ago(90)), position.watermark(ago(50))
    page.sessions = [
        FakeSession(page.hub, sent=behind, number=1),
        FakeSession(page.hub, sent=current, number=2),
        FakeSession(page.hub, sent=current, number=3, shard=1),
        FakeSession(page.hub, number=4, shard=2),
    ]
    assert page.values("zmsd_session_backlog_transactions") == {("zero", "0"): 1, ("zero", "1"): 0}
    seconds = page.values("zmsd_session_backlog_seconds")
    assert seconds["zero", "0"] == pytest.approx(50, abs=2)
    assert page.values("zmsd_session_acked_age_seconds") == {}


def test_progress_of_a_copy_is_shown_while_it_runs(page: Page) -> None:
    sync = InitialSync(page.hub.source, page.hub.active, "zero", 0, Event(), "")
    sync.progress.documents, sync.progress.estimated = 7, 9
    page.sessions = [FakeSession(page.hub, copy=sync), FakeSession(page.hub, shard=1)]
    assert page.values("zmsd_copy_documents") == {("zero", "0"): 7}
    assert page.values("zmsd_copy_documents_expected") == {("zero", "0"): 9}


def test_replicas_are_counted_by_shard(page: Page) -> None:
    for version in (START, START + 1, START + 1):
        page.hub.replicas.add(Replica("zero", 0, position.watermark(version)), position.watermark(START))
    assert page.values("zmsd_replicas") == {("zero", "0"): 2}, "two streams of one replica are one"


def test_reloads_and_rejected_rows_are_counted_by_their_labels(page: Page) -> None:
    page.monitor.reloaded()
    page.monitor.reloaded(["wrong"])
    page.monitor.reloaded(["wrong"])
    page.hub.rejects.add("t", "no key", 1, "row")
    assert page.values("zmsd_reloads_total") == {("ok",): 1, ("refused",): 2}
    assert 1 in page.values("zmsd_rejected_rows_total").values()


def test_failed_reads_are_counted(page: Page) -> None:
    page.hub.source.failures.inc(3)
    assert page.value("zmsd_reconnects_total") == 3
