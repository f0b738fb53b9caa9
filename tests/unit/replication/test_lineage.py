from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from zmsd.errors import ResumeLost, SourceTimeout
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


@pytest.fixture
def oplog(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The oplog has everything."""
    found = SimpleNamespace(has_event=MagicMock(return_value=True), has_operation=MagicMock(return_value=True))
    monkeypatch.setattr(lineage_module, "oplog", found)
    return found


@pytest.fixture
def lineage(store: SqliteStore, oplog: SimpleNamespace) -> Lineage:
    source = MagicMock()
    source.operation_time.return_value = NOW
    return Lineage(source, store)


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
    lineage: Lineage, store: SqliteStore, oplog: SimpleNamespace
) -> None:
    """An older state was restored and has continued: the time alone would not show it."""
    store.record_checkpoint(watermark(40), "token 40")
    oplog.has_event.return_value = False
    lineage.check_watermark(watermark(39), watermark(5))
    with pytest.raises(ResumeLost, match="not in this database's history"):
        lineage.check_watermark(watermark(41), watermark(5))


def test_newest_checkpoint_is_checked_in_the_oplog(
    lineage: Lineage, store: SqliteStore, oplog: SimpleNamespace
) -> None:
    lineage.check_newest()
    store.record_checkpoint(watermark(40), "token 40")
    lineage.check_newest()
    lineage.distrust()
    oplog.has_event.return_value = False
    with pytest.raises(ResumeLost, match="not in this database's history"):
        lineage.check_newest()
    lineage.check_newest()  # records from now on belong to this database
    assert lineage.distrust_count == 1


def test_replica_version_missing_from_the_oplog_is_lost(
    lineage: Lineage, store: SqliteStore, oplog: SimpleNamespace
) -> None:
    """Nothing was written after the initial sync, so no checkpoint exists. Other replicas stay valid: a client may
    send any version."""
    oplog.has_operation.return_value = False
    lineage.check_watermark(watermark(40), watermark(40))
    with pytest.raises(ResumeLost, match="not in this database's history"):
        lineage.check_replica(watermark(40), watermark(30, 1))
    assert oplog.has_operation.call_args.args[1] == 30
    assert store.invalidated_below() is None


def test_watermark_missing_from_the_oplog_is_lost(lineage: Lineage, oplog: SimpleNamespace) -> None:
    """The client's change has no checkpoint, because zmsd was killed before it stored one. The replica's initial sync
    is older than the restored state, so it proves nothing."""
    oplog.has_operation.side_effect = lambda _, at: at == 30
    with pytest.raises(ResumeLost, match="not in this database's history"):
        lineage.check_replica(watermark(40), watermark(30))


def test_heartbeat_needs_no_operation(lineage: Lineage, oplog: SimpleNamespace) -> None:
    lineage._source.operation_time.return_value = 9 << 32  # type: ignore[attr-defined]
    oplog.has_operation.side_effect = lambda _, at: at == 30
    lineage.check_replica(watermark(heartbeat_position((7 << 32) + 3, 1.0)), watermark(30))


def test_replica_synced_from_this_lineage_is_accepted(
    lineage: Lineage, store: SqliteStore, oplog: SimpleNamespace
) -> None:
    """Records of the earlier database do not matter. Otherwise each initial sync would end in reset-required, without
    end."""
    store.record_checkpoint(watermark(40), "a token of another history")
    store.invalidate(watermark(50), "another database")
    oplog.has_event.return_value = False
    store.record_copy(Replica("zero", 0, watermark(60)), CopyRecord(watermark(60), watermark(60), "f"))
    lineage.check_replica(watermark(60), watermark(60))


def test_proof_is_repeated_only_after_a_doubt(lineage: Lineage, store: SqliteStore, oplog: SimpleNamespace) -> None:
    store.record_checkpoint(watermark(40), "token 40")
    for _ in range(2):
        for _ in range(3):
            lineage.check_replica(watermark(41), watermark(30))
        lineage.distrust()
    assert oplog.has_event.call_count == 2
    assert [call.args[1] for call in oplog.has_operation.call_args_list].count(30) == 2


def test_proof_that_began_before_a_doubt_does_not_count(
    lineage: Lineage, store: SqliteStore, oplog: SimpleNamespace
) -> None:
    """The question was asked before the database was restored, and answered after the restore is known."""

    def answer(*_: object) -> bool:
        lineage.distrust()
        return True

    store.record_checkpoint(watermark(40), "token 40")
    oplog.has_event.side_effect = answer
    lineage.check_watermark(watermark(41), watermark(30))
    lineage.check_watermark(watermark(41), watermark(30))
    assert oplog.has_event.call_count == 2


def test_long_search_is_named_and_repeated_with_more_time(
    lineage: Lineage, store: SqliteStore, oplog: SimpleNamespace
) -> None:
    """A feed that begins again does not begin with a short deadline."""
    seconds: list[float] = []

    def busy(_source: object, _token: str, limit: float) -> bool:
        assert lineage.searches is not None
        assert lineage.searches[0] == f"the change at watermark {watermark(40)}"
        seconds.append(limit)
        if len(seconds) < 3:
            raise SourceTimeout("operation exceeded time limit", busy=True)
        return True

    store.record_checkpoint(watermark(40), "token 40")
    oplog.has_event.side_effect = busy
    for _ in range(2):
        with pytest.raises(SourceTimeout):
            lineage.check_newest()
        assert lineage.searches is None
    lineage.check_newest()
    assert seconds == [10, 40, 160]
