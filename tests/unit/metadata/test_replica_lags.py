"""The lag of each replica: a bounded ring that outlives a connection."""

from __future__ import annotations

from zmsd.metadata.replica_lags import MAX_REPLICAS, ReplicaLags
from zmsd.watermarks.base import Replica

ONE, OTHER = Replica("zero", 0, "01"), Replica("zero", 0, "02")


def test_replica_that_was_away_has_a_gap() -> None:
    lags = ReplicaLags(5)
    for sample in ({ONE: 1.0}, {}, {ONE: 2.0, OTHER: 3.0}):
        lags.sample(sample)
    assert lags.of(ONE) == [1.0, None, 2.0]
    assert lags.of(OTHER) == [3.0]


def test_ring_is_bounded_and_then_forgotten() -> None:
    lags = ReplicaLags(3)
    for number in range(5):
        lags.sample({ONE: float(number)})
    assert lags.of(ONE) == [2.0, 3.0, 4.0]
    for _ in range(3):
        lags.sample({})
    assert lags.of(ONE) == []
    assert not lags._samples


def test_replicas_that_do_not_stay_are_bounded() -> None:
    lags = ReplicaLags(1000)
    for number in range(MAX_REPLICAS + 50):
        lags.sample({Replica("zero", 0, f"{number:04}"): 1.0, ONE: 1.0})
    assert len(lags._samples) == MAX_REPLICAS + 2
    assert len(lags.of(ONE)) == MAX_REPLICAS + 50
    assert not lags.of(Replica("zero", 0, "0000")), "that left first"
    assert lags.of(Replica("zero", 0, f"{MAX_REPLICAS + 40:04}"))
