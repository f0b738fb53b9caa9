"""RowFile: the rows of a replica in a temporary sqlite3 file, by key, each with what the comparison found."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from zmsd.errors import ZmsdError

_CACHE_KIB = 65536
"""Memory for sqlite's pages, whatever the number of rows."""


class State(IntEnum):
    """What is known about a row."""

    UNSEEN = 0
    """No document has given a row with this key: the row is extra if that is so at the end."""
    EQUAL = 1
    DIFFERENT = 2
    MISSING = 3
    """The row was added from MongoDB, because the replica does not have it."""
    LATE = 4
    """The row came while its table was being compared. It is not compared."""


class Shape(NamedTuple):
    """Columns and key of a table."""

    columns: dict[str, str]
    """Column -> PostgreSQL type."""
    primary_key: tuple[str, ...]


class RowFile:
    """The tables of one replica. For one thread. Memory is constant; the file is as large as the rows."""

    def __init__(self, directory: Path) -> None:
        """Raises ZmsdError if no file can be made.

        :param directory: an empty directory of the caller's, which removes it
        """
        with _errors():
            self._database = sqlite3.connect(directory / "rows.db", isolation_level=None)
            for pragma in ("synchronous=OFF", "locking_mode=EXCLUSIVE", f"cache_size=-{_CACHE_KIB}"):
                self._database.execute(f"PRAGMA {pragma}")
        self.shapes: dict[str, Shape] = {}
        """Table -> its columns and key."""
        self._late: dict[str, bool] = {}
        """Table whose new rows are late -> whether replaced rows are late as well."""
        self._before: dict[str, Shape] | None = None

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def begin(self) -> None:
        """Begin a transaction. All writing needs one."""
        self._before = dict(self.shapes)
        self._run("BEGIN")

    def commit(self) -> None:
        """Keep what was written since ``begin``."""
        self._before = None
        self._run("COMMIT")

    def rollback(self) -> None:
        """Undo what was written since ``begin``; without effect outside of a transaction."""
        if self._before is not None:
            self.shapes, self._before = self._before, None
            self._run("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the body writes."""
        self.begin()
        yield
        self.commit()

    def add_table(self, table: str, shape: Shape) -> None:
        """Add an empty table."""
        self.shapes[table] = shape
        self._run(f"CREATE TABLE {_name(table)} (key TEXT PRIMARY KEY, row TEXT, state INTEGER)")

    def drop_table(self, table: str) -> None:
        """Remove a table and its rows."""
        del self.shapes[table]
        self._run(f"DROP TABLE {_name(table)}")

    def mark_late(self, table: str, *, replaced: bool = False) -> None:
        """Keep rows that are inserted from now on out of the comparison, because some documents were compared.

        :param replaced: the same for rows that are replaced
        """
        self._late[table] = replaced

    def put(self, table: str, key: str, row: str) -> None:
        """Insert a row, or replace the row with its key, which keeps its state unless ``mark_late`` says otherwise."""
        state = State.LATE if table in self._late else State.UNSEEN
        its_state = ", state = excluded.state" if self._late.get(table) else ""
        conflict = f"ON CONFLICT (key) DO UPDATE SET row = excluded.row{its_state}"
        self._run(f"INSERT INTO {_name(table)} VALUES (?, ?, ?) {conflict}", key, row, int(state))

    def delete(self, table: str, key: str) -> None:
        """Delete a row, if it is there."""
        self._run(f"DELETE FROM {_name(table)} WHERE key = ?", key)

    def truncate(self, table: str) -> None:
        """Delete all rows of a table."""
        self._run(f"DELETE FROM {_name(table)}")

    def is_equal(self, table: str, key: str, row: str) -> bool:
        """Return whether the table has exactly this row, which no document gave before; mark it as equal."""
        where = f"key = ? AND row = ? AND state IN ({State.UNSEEN:d}, {State.LATE:d})"
        return self._run(f"UPDATE {_name(table)} SET state = {State.EQUAL:d} WHERE {where}", key, row).rowcount == 1

    def find(self, table: str, key: str) -> tuple[str, State] | None:
        """Return the row with a key, and its state; None if there is none."""
        found = self._run(f"SELECT row, state FROM {_name(table)} WHERE key = ?", key).fetchone()
        return None if found is None else (found[0], State(found[1]))

    def mark(self, table: str, key: str, state: State) -> None:
        """Set the state of a row."""
        self._run(f"UPDATE {_name(table)} SET state = ? WHERE key = ?", int(state), key)

    def add_missing(self, table: str, key: str, row: str) -> None:
        """Add a row that the replica should have."""
        self._run(f"INSERT INTO {_name(table)} VALUES (?, ?, ?)", key, row, int(State.MISSING))

    def counts(self, table: str) -> dict[State, int]:
        """Return the number of rows in each state."""
        found = dict(self._run(f"SELECT state, count(*) FROM {_name(table)} GROUP BY state").fetchall())
        return {state: found.get(int(state), 0) for state in State}

    def unseen(self, table: str, limit: int) -> list[tuple[str, str]]:
        """Return the first (key, row) that no document gave, in the order of the keys' texts."""
        where = f"state = {State.UNSEEN:d} ORDER BY key LIMIT ?"
        found: list[tuple[str, str]] = self._run(f"SELECT key, row FROM {_name(table)} WHERE {where}", limit).fetchall()
        return found

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        with _errors():
            return self._database.execute(statement, values)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ZmsdError(
            f"the temporary file of the comparison: {error} (set TMPDIR to a directory with space)"
        ) from error


def _name(table: str) -> str:
    quoted = table.replace('"', '""')
    return f'"{quoted}"'
