from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from zmsd.errors import ZmsdError
from zmsd.verify.row_file import RowFile, Shape, State

SHAPE = Shape({"id": "text"}, ("id",))
TABLE = 'odd " name'


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[RowFile]:
    file = RowFile(tmp_path)
    with file.transaction():
        file.add_table(TABLE, SHAPE)
        file.put(TABLE, "1", "one")
        file.put(TABLE, "2", "two")
    yield file
    file.close()


def test_equal_row_is_marked_once(rows: RowFile) -> None:
    with rows.transaction():
        assert rows.is_equal(TABLE, "1", "one")
        assert not rows.is_equal(TABLE, "1", "one")
        assert not rows.is_equal(TABLE, "2", "other")
        assert not rows.is_equal(TABLE, "3", "three")
    assert rows.find(TABLE, "1") == ("one", State.EQUAL)
    assert rows.find(TABLE, "3") is None
    assert rows.unseen(TABLE, 5) == [("2", "two")]


def test_put_replaces_a_row_and_keeps_its_state(rows: RowFile) -> None:
    with rows.transaction():
        rows.mark(TABLE, "1", State.EQUAL)
        rows.put(TABLE, "1", "new")
    assert rows.find(TABLE, "1") == ("new", State.EQUAL)


def test_row_after_mark_late_is_not_extra(rows: RowFile) -> None:
    with rows.transaction():
        rows.mark_late(TABLE)
        rows.put(TABLE, "3", "three")
        rows.put(TABLE, "4", "four")
        assert rows.is_equal(TABLE, "4", "four")
        rows.add_missing(TABLE, "5", "five")
    counts = rows.counts(TABLE)
    assert counts == {State.UNSEEN: 2, State.EQUAL: 1, State.DIFFERENT: 0, State.MISSING: 1, State.LATE: 1}


def test_rollback_restores_rows_and_tables(rows: RowFile) -> None:
    rows.begin()
    rows.truncate(TABLE)
    rows.add_table("other", SHAPE)
    rows.drop_table(TABLE)
    rows.rollback()
    rows.rollback()
    assert rows.shapes == {TABLE: SHAPE}
    assert rows.find(TABLE, "1") == ("one", State.UNSEEN)


def test_delete_and_truncate_remove_rows(rows: RowFile) -> None:
    with rows.transaction():
        rows.delete(TABLE, "1")
        rows.delete(TABLE, "no such key")
    assert rows.unseen(TABLE, 5) == [("2", "two")]
    with rows.transaction():
        rows.truncate(TABLE)
    assert rows.unseen(TABLE, 5) == []


def test_error_of_sqlite_names_the_directory_to_set(rows: RowFile) -> None:
    with pytest.raises(ZmsdError, match="already exists.*TMPDIR") as raised:
        rows.add_table(TABLE, SHAPE)
    assert isinstance(raised.value.__cause__, sqlite3.Error)
