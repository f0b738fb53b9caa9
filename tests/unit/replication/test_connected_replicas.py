"""The replicas that stream now, and the records that no replica needs."""

from __future__ import annotations

import pytest

from tests.unit.fakes import START, FakeStore, lines
from zmsd.position import watermark as mark
from zmsd.replication.connected_replicas import ConnectedReplicas
from zmsd.watermarks.base import REPLICA_SECONDS, CopyRecord, Replica, ReplicaRecord

ONE, TWO = (Replica("zero", 0, mark(START + at)) for at in (1, 2))
OTHER = Replica("zero", 1, mark(START))


def test_streams_of_a_replica_are_counted() -> None:
    replicas = ConnectedReplicas(FakeStore(), 60.0)
    for replica in (ONE, ONE, OTHER):
        replicas.add(replica, mark(START))
    assert replicas.counts() == {ONE: 2, OTHER: 1}
    replicas.remove(ONE)
    assert replicas.counts() == {ONE: 1, OTHER: 1}
    replicas.remove(ONE)
    assert replicas.counts() == {OTHER: 1}


def test_second_replica_of_a_shard_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    replicas = ConnectedReplicas(FakeStore(), 60.0)
    replicas.add(ONE, mark(START))
    replicas.add(OTHER, mark(START))
    assert not lines(caplog)
    replicas.add(TWO, mark(START))
    (line,) = lines(caplog)
    assert line.startswith(f"several replicas of one shard are connected app=zero shard=0 replicas={ONE[2]},{TWO[2]}")
    replicas.add(TWO, mark(START))
    assert not lines(caplog)
    replicas.remove(ONE)
    replicas.add(TWO, mark(START))
    replicas.add(ONE, mark(START))
    assert len(lines(caplog)) == 1, "after it was the only one for a time"


def test_commits_of_a_replica_are_known_to_its_next_connection() -> None:
    replicas = ConnectedReplicas(FakeStore(), 60.0)
    first = replicas.add(ONE, mark(START))
    first.sent(mark(START + 5))
    replicas.remove(ONE)
    second = replicas.add(ONE, mark(START))
    assert list(second.after(mark(START))) == [mark(START + 5)]
    assert list(replicas.add(TWO, mark(START)).after(mark(START))) == []


def test_outdated_replicas_are_forgotten_unless_connected() -> None:
    """A replica is outdated once its shard has a newer one and its own newest watermark is old."""
    store = FakeStore()
    newer = Replica("zero", 0, mark(START + (REPLICA_SECONDS + 2 << 32)))
    for replica in (ONE, TWO, newer):
        store.records[replica] = ReplicaRecord(replica.version, (CopyRecord(replica.version, replica.version, "f"),))
    replicas = ConnectedReplicas(store, 60.0)
    replicas.add(TWO, mark(START)).sent(mark(START + 5))
    replicas.unacknowledged(ONE).sent(mark(START + 5))
    replicas.forget_outdated(newer.version)
    assert set(store.records) == {TWO, newer}
    assert list(replicas.unacknowledged(ONE).after(mark(START))) == []
    replicas.remove(TWO)
    replicas.forget_outdated(newer.version)
    assert set(store.records) == {newer}
