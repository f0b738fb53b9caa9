"""Probes of the database's own time, and when the change log has reached them."""

from __future__ import annotations

from datetime import datetime

from tests.unit.fakes import START, FakeSource
from zmsd.bson_types import Document
from zmsd.errors import SourceUnavailable
from zmsd.position import to_timestamp
from zmsd.replication.lag_probes import LagProbes


def hello(at: int) -> Document:
    return {"localTime": datetime(2026, 11, 28, 12, 0, 0, 500_000), "operationTime": to_timestamp(at)}


def test_probe_has_the_times_of_both_clocks() -> None:
    source = FakeSource()
    source.answers = [hello(START + 7)]
    probes = LagProbes(source)
    assert probes.current is None
    probes.take()
    assert source.asked == [{"hello": 1}]
    assert probes.current is not None
    assert probes.current.commit_ms == 1_795_867_200_500
    assert probes.current.position == START + 7
    assert probes.current.sent_ms > 1_700_000_000_000
    assert probes.current.reached_ms is None


def test_probe_is_reached_once_the_log_has_its_position() -> None:
    source = FakeSource()
    source.answers = [hello(START + 7)]
    probes = LagProbes(source)
    probes.reached(START)
    probes.take()
    probe = probes.current
    assert probe is not None
    probes.reached(START + 6)
    assert probe.reached_ms is None
    probes.reached(START + 7)
    first = probe.reached_ms
    assert first is not None
    assert first >= probe.sent_ms
    probe.reached_ms = 1
    probes.reached(START + 8)
    assert probe.reached_ms == 1, "the first time counts"


def test_probe_that_the_log_has_already_is_reached_at_once() -> None:
    source = FakeSource()
    source.answers = [hello(START + 7)]
    probes = LagProbes(source)
    probes.reached(START + 7)
    probes.take()
    assert probes.current is not None
    assert probes.current.reached_ms is not None


def test_probe_without_an_answer_keeps_the_one_before() -> None:
    source = FakeSource()
    probes = LagProbes(source)
    source.answers = [hello(START), SourceUnavailable("away"), {"ok": 1}]
    for _ in range(3):
        probes.take()
    assert not source.answers
    assert probes.current is not None
    assert probes.current.position == START
