"""The file of the sqlite store."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from zmsd.errors import StoreError
from zmsd.position import watermark as mark
from zmsd.watermarks.sqlite import SqliteStore
from zmsd.watermarks.sqlite_file import is_claimed, look


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory" / "watermarks.db"


def test_is_claimed_only_while_a_daemon_has_the_file(path: Path) -> None:
    assert not is_claimed(path), "a missing file"
    tool = SqliteStore(path)
    assert not is_claimed(path)
    serving = SqliteStore(path, serves=True)
    assert is_claimed(path)
    serving.close()
    assert not is_claimed(path)
    tool.close()


def test_database_of_another_program_is_refused_and_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE zero_kv (key TEXT PRIMARY KEY, value TEXT)")
    db.close()
    before = file.read_bytes()
    for open_file in (SqliteStore, look):
        with pytest.raises(StoreError, match=r"another program .*zero_kv.*watermarks\.path"):
            open_file(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_files_are_private(path: Path) -> None:
    """Files that an older zmsd created become private too."""
    SqliteStore(path).close()
    path.chmod(0o644)
    store = SqliteStore(path, serves=True)
    store.invalidate(mark(1), "reason")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    store.close()
    assert modes == dict.fromkeys(("watermarks.db", "watermarks.db-wal", "watermarks.db-shm"), 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
