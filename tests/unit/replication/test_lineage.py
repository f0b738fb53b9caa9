from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.fakes import FakeSource
from zmsd.errors import ResumeLost, SourceTimeout
from zmsd.mongodb.source import Source
from zmsd.pace import FIRST_SECONDS
from zmsd.position import watermark
from zmsd.replication import lineage as lineage_module
from zmsd.replication.lineage import Lineage
from zmsd.replication.unacknowledged import heartbeat_position
from zmsd.watermarks.base import CopyRecord, Replica
from zmsd.watermarks.sqlite import SqliteStore

NOW = 1000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "w.db")
    yield store
    store.close()


class FakeOplog:
    """An oplog that has everything, but for what a test says."""

    def __init__(self) -> None:
        self.event: Callable[[str, float], bool] = lambda token, seconds: True
        self.operation: Callable[[int], bool] = lambda at: True
        self.tokens: list[str] = []
        """The tokens that were searched for."""
        self.positions: list[int] = []
        """The positions that were searched for."""

    def has_event(self, source: Source, token: str, seconds: float = FIRST_SECONDS) -> bool:
        self.tokens.append(token)
        return self.event(token, seconds)

    def has_operation(self, source: Source, at: int) -> bool:
        self.positions.append(at)
        return self.operation(at)


@pytest.fixture
def oplog(monkeypatch: pytest.MonkeyPatch) -> FakeOplog:
    """The oplog has everything."""
    found = FakeOplog()
    monkeypatch.setattr(lineage_module, "oplog", found)
    return found


@pytest.fixture
def lineage(store: SqliteStore, oplog: FakeOplog) -> Lineage:
    return Lineage(FakeSource(time=NOW), store)


def test_watermark_of_this_lineage_is_accepted(lineage: Lineage) -> None:
    for mark in (watermark(5), watermark(NOW), watermark(NOW, 1)):
        lineage.check_replica(mark, watermark(5))


def test_watermark_in_the_future_is_lost(lineage: Lineage) -> None:
    with pytest.raises(ResumeLost, match="later than the database's own time"):
        lineage.check_watermark(watermark(NOW + 1), watermark(5))


def test_watermark_before_a_change_of_database_is_lost(lineage: Lineage, store: SqliteStore) -> None:
    store.invalidate(watermark(50), "another database")
    with pytest.raises(ResumeLost, match="another database"):
        lineage.check_watermark(watermark(49), watermark(49))
    lineage.check_watermark(watermark(50), watermark(50))


def test_watermark_of_a_replica_of_another_database_is_lost(lineage: Lineage, store: SqliteStore) -> None:
    """The former database's clock was ahead."""
    store.invalidate(watermark(50), "another database")
    with pytest.raises(ResumeLost, match="another database"):
        lineage.check_watermark(watermark(60), watermark(49))
    with pytest.raises(ResumeLost, match="another database"):
        lineage.check_watermark(watermark(49), watermark(60))  # as no client says it


@pytest.mark.parametrize(("known", "below"), [(None, NOW), (50, NOW), (NOW, NOW + 1), (NOW + 7, NOW + 8)])
@pytest.mark.parametrize("kind", ["copies", "checkpoint"])
def test_invalidation_covers_all_known_watermarks(
    lineage: Lineage, store: SqliteStore, kind: str, known: int | None, below: int
) -> None:
    """Checkpoints become invalid too: otherwise one would be searched for in vain once the time has passed it, and all
    replicas would be reset again."""
    if known is not None and kind == "checkpoint":
        store.record_checkpoint(watermark(known), "token")
    for shard in (0, 1) if known is not None and kind == "copies" else ():
        mark = watermark(known - shard)
        store.record_copy(Replica("zero", shard, mark), CopyRecord(mark, mark, "f"))
    lineage.invalidate("another database")
    assert store.invalidated_below() == (watermark(below), "another database")


def test_watermark_after_a_change_missing_from_the_oplog_is_lost(
    lineage: Lineage, store: SqliteStore, oplog: FakeOplog
) -> None:
    """An older state was restored and has continued: the time alone would not show it."""
    store.record_checkpoint(watermark(40), "token 40")
    oplog.event = lambda token, seconds: False
    lineage.check_watermark(watermark(39), watermark(5))
    with pytest.raises(ResumeLost, match="not in this database's history"):
        lineage.check_watermark(watermark(41), watermark(5))


def test_newest_checkpoint_is_checked_in_the_oplog(lineage: Lineage, store: SqliteStore, oplog: FakeOplog) -> None:
    lineage.check_newest()
    store.record_checkpoint(watermark(40), "token 40")
    lineage.check_newest()
    lineage.distrust()
    oplog.event = lambda token, seconds: False
    with pytest.raises(ResumeLost, match="not in this database's history"):
        lineage.check_newest()
    lineage.check_newest()  # records from now on belong to this database
    assert lineage.distrust_count == 1


def test_replica_version_missing_from_the_oplog_is_lost(lineage: Lineage, store: SqliteStore, oplog: FakeOplog) -> None:
    """Nothing was written after the initial sync, so no checkpoint exists. Other replicas stay valid: a client may
    send any version."""
    oplog.operation = lambda at: False
    lineage.check_watermark(watermark(40), watermark(40))
    with pytest.raises(ResumeLost, match="not in this database's history"):
        lineage.check_replica(watermark(40), watermark(30, 1))
    assert oplog.positions[-1] == 30
    assert store.invalidated_below() is None


def test_watermark_missing_from_the_oplog_is_lost(lineage: Lineage, oplog: FakeOplog) -> None:
    """The client's change has no checkpoint, because zmsd was killed before it stored one. The replica's initial sync
    is older than the restored state, so it proves nothing."""
    oplog.operation = lambda at: at == 30
    with pytest.raises(ResumeLost, match="not in this database's history"):
        lineage.check_replica(watermark(40), watermark(30))


def test_heartbeat_needs_no_operation(store: SqliteStore, oplog: FakeOplog) -> None:
    lineage = Lineage(FakeSource(time=9 << 32), store)
    oplog.operation = lambda at: at == 30
    lineage.check_replica(watermark(heartbeat_position((7 << 32) + 3, 1.0)), watermark(30))


def test_replica_synced_from_this_lineage_is_accepted(lineage: Lineage, store: SqliteStore, oplog: FakeOplog) -> None:
    """Records of the earlier database do not matter. Otherwise each initial sync would end in reset-required, without
    end."""
    store.record_checkpoint(watermark(40), "a token of another history")
    store.invalidate(watermark(50), "another database")
    oplog.event = lambda token, seconds: False
    store.record_copy(Replica("zero", 0, watermark(60)), CopyRecord(watermark(60), watermark(60), "f"))
    lineage.check_replica(watermark(60), watermark(60))


def test_proof_is_repeated_only_after_a_doubt(lineage: Lineage, store: SqliteStore, oplog: FakeOplog) -> None:
    store.record_checkpoint(watermark(40), "token 40")
    for _ in range(2):
        for _ in range(3):
            lineage.check_replica(watermark(41), watermark(30))
        lineage.distrust()
    assert len(oplog.tokens) == 2
    assert oplog.positions.count(30) == 2


def test_proof_that_began_before_a_doubt_does_not_count(lineage: Lineage, store: SqliteStore, oplog: FakeOplog) -> None:
    """The question was asked before the database was restored, and answered after the restore is known."""

    def answer(*_: object) -> bool:
        lineage.distrust()
        return True

    store.record_checkpoint(watermark(40), "token 40")
    oplog.event = answer
    lineage.check_watermark(watermark(41), watermark(30))
    lineage.check_watermark(watermark(41), watermark(30))
    assert len(oplog.tokens) == 2


def test_long_search_is_named_and_repeated_with_more_time(
    lineage: Lineage, store: SqliteStore, oplog: FakeOplog
) -> None:
    """A feed that begins again does not begin with a short deadline."""
    seconds: list[float] = []

    def busy(_token: str, limit: float) -> bool:
        assert lineage.searches is not None
        assert lineage.searches[0] == f"the change at watermark {watermark(40)}"
        seconds.append(limit)
        if len(seconds) < 3:
            raise SourceTimeout("operation exceeded time limit", busy=True)
        return True

    store.record_checkpoint(watermark(40), "token 40")
    oplog.event = busy
    for _ in range(2):
        with pytest.raises(SourceTimeout):
            lineage.check_newest()
        assert lineage.searches is None
    lineage.check_newest()
    assert seconds == [10, 40, 160]
