"""Opening the sqlite store checks each of its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zmsd.errors import StoreError
from zmsd.position import watermark as mark
from zmsd.watermarks.base import CopyRecord, Identity, Replica, ReplicaRecord
from zmsd.watermarks.sqlite import SqliteStore

ONE, TWO = Replica("zero", 0, mark(5)), Replica("zero", 0, mark(8))
TOKEN = "82" + "0" * 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a store with two replicas."""
    file = tmp_path / "directory" / "watermarks.db"
    store = SqliteStore(file)
    for replica in (ONE, TWO):
        store.record_copy(replica, CopyRecord(replica.version, replica.version, "f"))
        store.record_ack(replica, mark(9))
    store.record_checkpoint(mark(5), TOKEN)
    store.record_checkpoint(mark(6), f"{TOKEN}.8205")
    store.save_publication("f", "[]")
    store.save_identity(Identity("set", {"a": "uuid"}, "db"))
    store.invalidate(mark(1), "reason")
    store.close()
    return file


def write(path: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(statement, values)
    db.close()


def known(path: Path) -> Any:
    store = SqliteStore(path)
    try:
        return store.contents()
    finally:
        store.close()


DAMAGES: list[tuple[str, object, Callable[[Any], object]]] = [
    ("UPDATE copy SET watermark = ? WHERE version = '05'", "c1mln~", lambda found: found.replicas.keys() == {TWO}),
    ("UPDATE copy SET stream_from = ? WHERE version = '05'", b"\xff\xfe", lambda found: found.replicas.keys() == {TWO}),
    ("UPDATE replica SET acked = ? WHERE version = '05'", "x", lambda found: found.replicas[ONE].acked is None),
    ("UPDATE edition SET document = ?", "[1, 2", lambda found: found.publications == {}),
    ("UPDATE edition SET document = ?", b"\xc3\x28", lambda found: found.publications == {}),
    (
        "UPDATE checkpoint SET token = ? WHERE watermark = '06'",
        "zz",
        lambda found: list(found.checkpoints) == [mark(5)],
    ),
    ("UPDATE checkpoint SET token = ? WHERE watermark = '06'", b"\x00", lambda found: len(found.checkpoints) == 1),
    ("UPDATE identity SET collections = ?", "[]", lambda found: found.identity is None),
    ("UPDATE identity SET set_id = ?", b"\xff", lambda found: found.identity is None),
    ("UPDATE invalid SET below = ?", "", lambda found: found.invalid is None),
]


@pytest.mark.parametrize(("statement", "value", "expected"), DAMAGES)
def test_unreadable_record_is_dropped_and_reported(
    path: Path, caplog: pytest.LogCaptureFixture, statement: str, value: object, expected: Callable[[Any], object]
) -> None:
    before = known(path)
    assert not caplog.records
    write(path, statement, value)
    found = known(path)
    assert found != before
    assert expected(found)
    (line,) = caplog.messages
    assert line.startswith("unreadable records dropped ")
    assert "records=1" in line
    assert known(path) == found
    assert len(caplog.records) == 1, "the second start finds no unreadable record"


def test_undamaged_store_loses_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = known(path)
    assert found.replicas[ONE] == ReplicaRecord(mark(9), (CopyRecord(mark(5), mark(5), "f"),))
    assert (len(found.replicas), len(found.checkpoints), len(found.publications)) == (2, 2, 1)
    assert found.identity is not None
    assert found.invalid is not None
    assert not caplog.records


def test_damaged_pages_are_refused(path: Path) -> None:
    """The file opens, and its schema can be read."""
    db = sqlite3.connect(path)
    (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'checkpoint'").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size + 8)
        file.write(b"\xff" * 100)
    with pytest.raises(StoreError, match="malformed.*move the file away"):
        SqliteStore(path)


def test_trouble_lasts_from_failing_write_to_next_success(path: Path) -> None:
    store = SqliteStore(path)
    store._db.execute("PRAGMA max_page_count = 1")  # as a full disk: SQLITE_FULL
    assert store.trouble is None
    with pytest.raises(StoreError, match="full"):
        store.save_publication("large", "x" * 1_000_000)
    assert store.trouble is not None
    assert "make room" in store.trouble
    store._db.execute("PRAGMA max_page_count = 100000")
    store.probe()
    assert store.trouble is None
    store.close()
