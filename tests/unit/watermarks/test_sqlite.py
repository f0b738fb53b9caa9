"""What only the sqlite store does; tests/integration/test_store.py has the contract of all stores."""

from __future__ import annotations

import fcntl
import gc
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from zmsd.errors import StoreError
from zmsd.position import watermark as mark
from zmsd.watermarks import sqlite
from zmsd.watermarks.base import CopyRecord, Identity, Replica, ReplicaRecord
from zmsd.watermarks.sqlite import SqliteStore

ZERO = Replica("zero", 0, mark(5))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory" / "watermarks.db"


def garbage(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, but long enough for one" * 20)


def newer(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def directory(path: Path) -> None:
    path.mkdir(parents=True)


def file_in_the_way(path: Path) -> None:
    path.parent.write_text("")


@pytest.mark.parametrize(
    ("spoil", "advice"),
    [
        (garbage, "move the file away and start again"),
        (newer, "written by a newer zmsd .store version 99"),
        (directory, "see that the directory exists"),
        (file_in_the_way, "see that the directory exists"),
    ],
)
def test_unusable_path_is_reported_with_advice(path: Path, spoil: Callable[[Path], None], advice: str) -> None:
    spoil(path)
    with pytest.raises(StoreError, match=advice) as caught:
        SqliteStore(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_store_of_newer_version_is_not_changed(path: Path) -> None:
    newer(path)
    before = path.read_bytes()
    with pytest.raises(StoreError):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_failing_migration_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    store.record_copy(ZERO, CopyRecord(mark(5), mark(5), "e"))
    store.close()
    steps = sqlite._MIGRATIONS
    monkeypatch.setattr(sqlite, "_MIGRATIONS", (*steps, "CREATE TABLE more (x); CREATE TABLE replica (x);"))
    with pytest.raises(StoreError, match="replica already exists"):
        SqliteStore(path)
    gc.collect()  # as at the end of a process: the connection still holds its transaction
    monkeypatch.setattr(sqlite, "_MIGRATIONS", (*steps, "CREATE TABLE more (x);", "ALTER TABLE more ADD y;"))
    for _ in range(2):
        again = SqliteStore(path)
        assert again.replica(ZERO) == ReplicaRecord(None, (CopyRecord(mark(5), mark(5), "e"),))
        again.close()


@pytest.mark.parametrize("version", [1, 2])
def test_store_of_older_version_is_migrated(path: Path, version: int) -> None:
    """The older versions kept one record for each shard, not for each replica."""
    path.parent.mkdir()
    db = sqlite3.connect(path)
    for script in sqlite._MIGRATIONS[:version]:
        db.executescript(script)
    columns = "one, set_id, collections"
    db.executescript(
        f"""
        PRAGMA user_version = {version};
        INSERT INTO identity ({columns}) VALUES (1, 'set', '{{}}');
        INSERT INTO shard VALUES ('zero', 0, '{mark(5)}', '{mark(9)}'), ('zero', 1, '{mark(6)}', NULL);
        INSERT INTO copy VALUES ('zero', 0, '{mark(5)}', '{mark(7)}', 'e'), ('zero', 0, '{mark(8)}', '{mark(8)}', 'f'),
            ('zero', 1, '{mark(6)}', '{mark(6)}', 'e');
        """
    )
    db.close()
    first, second = CopyRecord(mark(5), mark(7), "e"), CopyRecord(mark(8), mark(8), "f")
    third = CopyRecord(mark(6), mark(6), "e")
    for _ in range(2):
        again = SqliteStore(path)
        assert again.load_identity() == Identity("set", {}, None)
        assert again.replicas() == {
            Replica("zero", 0, ""): ReplicaRecord(mark(9), (first, second)),
            Replica("zero", 1, ""): ReplicaRecord(None, (third,)),
        }
        again.close()
    again = SqliteStore(path)
    again.save_identity(Identity("set", {}, "db"))
    assert again.load_identity() == Identity("set", {}, "db")
    again.close()


def test_second_daemon_is_refused_and_commands_are_not(path: Path) -> None:
    serving = SqliteStore(path, serves=True)
    with pytest.raises(StoreError, match=r"used by another zmsd .*watermarks\.path"):
        SqliteStore(path, serves=True)
    tool = SqliteStore(path)
    tool.record_copy(ZERO, CopyRecord(mark(5), mark(5), "e"))
    tool.close()
    serving.record_ack(ZERO, mark(6))
    serving.close()
    next_one = SqliteStore(path, serves=True)
    assert next_one.replica(ZERO) == ReplicaRecord(mark(6), (CopyRecord(mark(5), mark(5), "e"),))
    next_one.close()


def test_start_succeeds_while_another_process_tests_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``is_claimed`` holds the lock for an instant."""
    SqliteStore(path).close()
    with path.open("rb") as testing:
        fcntl.flock(testing, fcntl.LOCK_SH)
        monkeypatch.setattr(sqlite, "sleep", lambda seconds: testing.close())
        SqliteStore(path, serves=True).close()
