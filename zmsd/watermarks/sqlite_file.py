"""The file of the sqlite store: errors, permissions, and whether a daemon uses it."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from zmsd.errors import StoreError


@contextmanager
def translated(path: Path, what: str) -> Iterator[None]:
    """Raise errors of SQLite and the file system as StoreError, in one line with advice."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"watermark store {path} cannot be {what}: {error}: {advice(error)}") from error


def look(path: Path) -> str | None:
    """Return the name of the database that a store file belongs to; None if the file does not have it.

    The file is not changed. Raises StoreError.
    """
    with translated(path, "read"), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        refuse_foreign(path, db)
        columns = [name for _, name, *_ in db.execute("PRAGMA table_info(identity)")]
        found = db.execute("SELECT database FROM identity").fetchall() if "database" in columns else []
    return found[0][0] if found else None


def is_claimed(path: Path) -> bool:
    """Return whether a running daemon uses the file. flock(2) has no query: the lock is tried."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a missing file, or a file system without flock
        pass
    return False


def refuse_foreign(path: Path, db: sqlite3.Connection) -> None:
    """Raise StoreError for a database of another program, before changing it."""
    tables = {str(name) for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not {"copy", "edition", "checkpoint"} <= tables:
        names = ", ".join(sorted(tables)[:5])
        raise StoreError(
            f"{path} is a database of another program (it has the tables {names}): "
            "set watermarks.path to a file of zmsd's own"
        )


def keep_private(path: Path) -> None:
    """Remove the permissions of group and others from the file and its logs, which an older zmsd granted."""
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(OSError):  # a missing file, or another user's
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def advice(error: BaseException) -> str:
    """Return what to do about an error of SQLite or the file system."""
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return "move the file away and start again, positions are derived from MongoDB"
    if "full" in text or "No space" in text:
        return "make room on its disk"
    if "locked" in text:
        return "another process uses it, give each zmsd a file of its own"
    return "see that the directory exists and that zmsd may write there (watermarks.path)"
