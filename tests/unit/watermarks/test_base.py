"""The records of replicas: which copy holds, which are dropped, and which replicas are outdated."""

from __future__ import annotations

import pytest

from zmsd.position import watermark as mark
from zmsd.watermarks import base
from zmsd.watermarks.base import PROVISIONAL_SECONDS, REPLICA_SECONDS, CopyRecord, Replica, ReplicaRecord, outdated

NOW = 10 * REPLICA_SECONDS


def copy(at: int, publication: str = "f") -> CopyRecord:
    return CopyRecord(mark(at), mark(at), publication)


def record(acked: int | None, *ats: int) -> ReplicaRecord:
    return ReplicaRecord(None if acked is None else mark(acked), tuple(copy(at) for at in ats))


def test_shard_name_is_that_of_zero() -> None:
    assert Replica("my_app", 3, "").shard_name == "my_app_3"


def test_replica_has_certainly_what_it_acknowledged_or_its_first_copy() -> None:
    assert record(None, 5, 9).confirmed == mark(5), "it may not have got the second"
    assert record(7, 5, 9).confirmed == mark(7)
    assert record(7, 5, 9).newest == mark(9)
    assert record(12, 5, 9).newest == mark(12)


def test_latest_copy_is_at_or_below_the_watermark() -> None:
    found = record(None, 5, 9)
    assert found.latest_copy(mark(4)) is None
    for at, expected in ((5, 5), (8, 5), (9, 9), (99, 9)):
        assert found.latest_copy(mark(at)) == copy(expected)


def test_copy_at_the_same_watermark_is_replaced_and_others_are_in_order() -> None:
    found = record(None, 5, 9).with_copy(copy(7)).with_copy(copy(5, "g"))
    assert found.copies == (copy(5, "g"), copy(7), copy(9))


def test_copies_beyond_the_limit_are_dropped_where_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy with the publication of its predecessor says nothing that the predecessor does not."""
    monkeypatch.setattr(base, "COPIES", 3)
    found = ReplicaRecord(None, (copy(1, "a"), copy(2, "a"), copy(3, "b")))
    assert found.with_copy(copy(4, "c")).copies == (copy(1, "a"), copy(3, "b"), copy(4, "c"))
    found = ReplicaRecord(None, (copy(1, "a"), copy(2, "b"), copy(3, "c")))
    assert found.with_copy(copy(4, "d")).copies == (copy(2, "b"), copy(3, "c"), copy(4, "d"))
    found = ReplicaRecord(None, (copy(1, "a"), copy(2, "b"), copy(3, "c")))
    assert found.with_copy(copy(4, "c")).copies == (copy(2, "b"), copy(3, "c"), copy(4, "c")), "the newest one stays"


def at(seconds: float) -> str:
    """Return the watermark of a time in seconds."""
    return mark(int(seconds) << 32)


def old_and_new(age: float, acked: bool, shard: int = 0) -> dict[Replica, ReplicaRecord]:
    """Return a replica whose newest watermark has an age, and a newer one."""
    old, new = at(NOW - age), at(NOW)
    records = {}
    for number, version in ((0, old), (shard, new)):
        made = CopyRecord(version, version, "f")
        records[Replica("zero", number, version)] = ReplicaRecord(version if acked else None, (made,))
    return records


@pytest.mark.parametrize(
    ("age", "acked", "gone"),
    [
        (REPLICA_SECONDS + 1, True, True),
        (REPLICA_SECONDS, True, False),
        (PROVISIONAL_SECONDS + 1, True, False),
        (PROVISIONAL_SECONDS + 1, False, True),
        (PROVISIONAL_SECONDS, False, False),
    ],
)
def test_replica_is_outdated_by_the_age_of_its_newest_watermark(age: float, acked: bool, gone: bool) -> None:
    records = old_and_new(age, acked)
    assert (next(iter(records)) in outdated(records, at(NOW))) is gone


def test_only_replica_of_its_shard_is_not_outdated_by_age() -> None:
    """A client that was away for long gets reset-required from the oplog, and not because its record is gone."""
    assert outdated(old_and_new(5 * REPLICA_SECONDS, True, shard=1), at(NOW)) == []


def test_replicas_beyond_the_limit_are_outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "REPLICAS", 1)
    records = old_and_new(PROVISIONAL_SECONDS + 1, True)
    assert outdated(records, at(NOW)) == [next(iter(records))]
    assert outdated(old_and_new(PROVISIONAL_SECONDS, True), at(NOW)) == [], "it may have just connected"
