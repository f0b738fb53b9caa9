"""When a lag report is due, and what it says about the newest probe."""

from __future__ import annotations

from typing import Any

from tests.support.frames import messages
from tests.unit.fakes import START, FakeClock, hub
from zmsd.gateway.lag import GRACE_SECONDS, LagReports
from zmsd.position import watermark as mark
from zmsd.replication.change_log import Entry
from zmsd.replication.hub import Hub
from zmsd.replication.lag_probes import Probe
from zmsd.zero import protocol

SENT = 1_795_407_800_000
"""When the probe was taken, in ms since the epoch."""


class Reports:
    """The reports of one session, 30 s apart, and both of its clocks."""

    def __init__(self) -> None:
        self.hub: Hub = hub(lag_report=30.0)
        self.clock, self.wall = FakeClock(100.0), FakeClock(SENT / 1000 + 2)
        self._reports = LagReports(self.hub, self.clock, self.wall)

    def probe(self, at: int, reached_ms: int | None = None, sent_ms: int = SENT) -> None:
        self.hub.probes.current = Probe(sent_ms, sent_ms - 5, at, reached_ms)

    def due(self, at: int) -> Any:
        frames = self._reports.due(mark(at))
        return None if frames is None else messages(frames)[0]


def report(sent: int, commit: int, received: int, next_ms: int, at: int) -> Any:
    return messages(protocol.lag_report(sent, commit, received, next_ms, mark(at)))[0]


def test_report_without_a_probe_is_not_due() -> None:
    assert Reports().due(START) is None


def test_probe_of_an_idle_stream_is_reported_with_the_time_of_the_log() -> None:
    reports = Reports()
    reports.probe(START, reached_ms=SENT + 7)
    assert reports.due(START) == report(SENT, SENT - 5, SENT + 7, SENT + 30_000, START)
    assert reports.due(START) is None


def test_probe_that_a_backlogged_stream_has_reached_is_reported_with_the_time_now() -> None:
    reports = Reports()
    reports.hub.log.extend([Entry(mark(START + 9), 0, 1, b"x")])
    reports.probe(START, reached_ms=SENT + 7)
    assert reports.due(START) == report(SENT, SENT - 5, SENT + 2000, SENT + 30_000, START)


def test_probe_that_the_stream_has_not_reached_is_reported_late_with_a_growing_lag() -> None:
    """zero-cache takes a missing report for a healthy stream."""
    reports = Reports()
    reports.hub.log.extend([Entry(mark(START + 9), 0, 1, b"x")])
    reports.probe(START + 9)
    assert reports.due(START) is None
    reports.clock.now += 30 + GRACE_SECONDS - 1
    assert reports.due(START) is None
    for seconds in (1, 30 + GRACE_SECONDS):
        reports.clock.now += seconds
        reports.wall.now += 40
        lag = int(reports.wall.now * 1000) - SENT
        assert reports.due(START) == report(SENT, SENT - 5, SENT + lag, max(SENT + lag, SENT + 30_000), START)
        assert reports.due(START) is None


def test_report_never_precedes_its_probe_and_commit_times_rise() -> None:
    """The clock of this machine may be set back."""
    reports = Reports()
    reports.probe(START, reached_ms=SENT - 60_000)
    assert reports.due(START)[1]["lagReport"]["lastTimings"]["receiveTimeMs"] == SENT
    reports.probe(START, reached_ms=SENT, sent_ms=SENT - 1000)
    assert reports.due(START)[1]["lagReport"]["lastTimings"]["commitTimeMs"] == SENT - 5
