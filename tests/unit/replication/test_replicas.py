"""What the store knows of a session's replica, and from where the replica continues."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FakeStore
from zmsd.errors import ResumeLost
from zmsd.position import watermark as mark
from zmsd.replication.replicas import UNKNOWN, Base, ReplicaBook
from zmsd.schema.catalog import Catalog
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import CopyRecord, Replica, ReplicaRecord

OLD, NEW = Publication(Catalog(()), "old"), Publication(Catalog(()), "new")
ZERO = Replica("zero", 0, mark(10))
SYNC, CHANGE = CopyRecord(mark(10), mark(14), OLD.fingerprint), CopyRecord(mark(20), mark(20), NEW.fingerprint)


def store(**records: ReplicaRecord) -> FakeStore:
    """Return a store with the records of replicas ``v10``, ``v20``, …; ``v`` is the record of an older zmsd."""
    found = FakeStore()
    for name, record in records.items():
        version = name.removeprefix("v")
        found.records[Replica("zero", 0, mark(int(version)) if version else "")] = record
    found.publications = {one.fingerprint: one.to_json() for one in (OLD, NEW)}
    return found


def book(known: FakeStore, version: str | None = mark(10), *, writes: bool = True) -> ReplicaBook:
    return ReplicaBook(known, "zero", 0, version, writes=writes)


def test_replica_at_its_initial_sync_continues_where_the_scan_ended() -> None:
    known = store(v10=ReplicaRecord(None, (SYNC,)))
    assert book(known).find(mark(10), NEW) == Base(mark(14), OLD, None)
    assert book(known).find(mark(15), OLD) == Base(mark(15), OLD, None)


def test_replica_before_a_recorded_schema_change_must_pass_it() -> None:
    """Another stream of the replica has the change, or its commit was lost."""
    known = store(v10=ReplicaRecord(None, (SYNC, CHANGE)))
    assert book(known).find(mark(15), NEW) == Base(mark(15), OLD, mark(20))
    assert book(known).find(mark(20), NEW) == Base(mark(20), NEW, None)


def test_replica_without_a_record_has_no_known_publication() -> None:
    assert book(store()).find(mark(15), NEW) == Base(mark(15), None, None)
    assert book(store(v5=ReplicaRecord(None, (SYNC,)))).find(mark(15), NEW) == Base(mark(15), None, None)


def test_replica_without_a_record_is_lost_if_a_newer_one_is_known() -> None:
    known = store(v20=ReplicaRecord(None, (CHANGE,)))
    with pytest.raises(ResumeLost, match=f"older than the replica {mark(20)}") as lost:
        book(known).find(mark(15), NEW)
    assert lost.value.code == UNKNOWN
    assert book(known, writes=False).find(mark(15), NEW).publication is None, "an observer may read"


def test_replica_older_than_its_own_records_is_lost() -> None:
    known = store(v10=ReplicaRecord(None, (SYNC,)))
    with pytest.raises(ResumeLost, match="older than its own initial sync"):
        book(known).find(mark(9), NEW)
    known.records[ZERO] = ReplicaRecord(None, (CHANGE,))
    with pytest.raises(ResumeLost, match="older than its last 100 schema changes"):
        book(known).find(mark(15), NEW)


@pytest.mark.parametrize(
    ("document", "reason"), [(None, "is not in the store"), ("[", "cannot be read"), ("[1]", "cannot be read")]
)
def test_replica_whose_publication_is_unreadable_is_lost(document: str | None, reason: str) -> None:
    known = store(v10=ReplicaRecord(None, (SYNC,)))
    if document is None:
        del known.publications[OLD.fingerprint]
    else:
        known.publications[OLD.fingerprint] = document
    with pytest.raises(ResumeLost, match=reason):
        book(known).find(mark(15), NEW)
    assert book(known).find(mark(15), OLD).publication == OLD, "the active one is known anyway"


def test_record_of_an_older_zmsd_is_taken_over() -> None:
    known = store(v=ReplicaRecord(None, (SYNC, CHANGE)))
    assert book(known).find(mark(15), NEW) == Base(mark(15), OLD, mark(20))
    assert known.records[ZERO].copies == (SYNC, CHANGE)
    with pytest.raises(ResumeLost, match="older than the newest one on record"):
        book(known, mark(8)).find(mark(9), NEW)
    assert book(known, mark(30)).find(mark(30), NEW).publication is None, "it is of an earlier replica"


def test_record_of_an_older_zmsd_stays_where_it_is_for_an_observer() -> None:
    known = store(v=ReplicaRecord(None, (SYNC,)))
    reader = book(known, None, writes=False)
    reader.replica = ZERO  # as zmsd verify has it from the replica's file
    assert reader.find(mark(15), NEW).publication == OLD
    assert not known.writes


def test_client_without_a_replica_version_is_the_newest_replica_below_its_watermark() -> None:
    known = store(v10=ReplicaRecord(None, (SYNC,)), v20=ReplicaRecord(None, (CHANGE,)))
    for at, version in ((15, 10), (25, 20), (20, 20)):
        found = book(known, None)
        found.find(mark(at), NEW)
        assert found.replica.version == mark(version)
    found = book(store(), None)
    found.find(mark(15), NEW)
    assert found.replica.version == mark(15)


def test_first_copy_names_the_replica() -> None:
    known = store()
    own = book(known, None)
    assert own.newest() == own.newest_initial_sync() == ""
    own.add(SYNC, OLD)
    own.add(CHANGE, NEW)
    own.acked(mark(21))
    assert own.replica == ZERO
    assert known.records == {ZERO: ReplicaRecord(mark(21), (SYNC, CHANGE))}
    assert known.writes[:2] == ["save_publication", "record_copy"], "a copy never names an unknown publication"
    assert own.newest() == mark(20)
    assert own.newest_initial_sync() == mark(10)


def test_observer_records_nothing() -> None:
    known = store()
    own = book(known, writes=False)
    own.add(SYNC, OLD)
    own.acked(mark(21))
    assert own.replica.version == mark(10)
    assert not known.writes
