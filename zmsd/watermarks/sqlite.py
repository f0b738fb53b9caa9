"""The watermark store in one SQLite file: WAL, one connection, migrations."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Any

from zmsd.deadline import Deadline
from zmsd.errors import StoreError
from zmsd.log import kv
from zmsd.watermarks.base import (
    CHECKPOINTS,
    CHECKPOINTS_AT_MOST,
    Contents,
    CopyRecord,
    Identity,
    Replica,
    ReplicaRecord,
    WatermarkStore,
)
from zmsd.watermarks.record_checks import TABLES, readable
from zmsd.watermarks.sqlite_file import advice, keep_private, refuse_foreign, translated

log = logging.getLogger(__name__)

# Each script runs once, in a transaction with the new user_version. Never change a released script: add one.
_MIGRATIONS = (
    """
    CREATE TABLE shard (
        app TEXT NOT NULL, number INTEGER NOT NULL, replica_version TEXT NOT NULL, acked TEXT,
        PRIMARY KEY (app, number)
    ) WITHOUT ROWID;
    CREATE TABLE copy (
        app TEXT NOT NULL, number INTEGER NOT NULL, watermark TEXT NOT NULL,
        stream_from TEXT NOT NULL, edition TEXT NOT NULL,
        PRIMARY KEY (app, number, watermark)
    ) WITHOUT ROWID;
    CREATE TABLE edition (fingerprint TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE checkpoint (watermark TEXT PRIMARY KEY, token TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), set_id TEXT, collections TEXT NOT NULL);
    CREATE TABLE invalid (one INTEGER PRIMARY KEY CHECK (one = 1), below TEXT NOT NULL, reason TEXT NOT NULL);
    """,
    "ALTER TABLE identity ADD COLUMN database TEXT;",
    # Records per replica instead of per shard. Which replica wrote the old ones is unknown: they get the version ''.
    """
    CREATE TABLE replica (
        app TEXT NOT NULL, number INTEGER NOT NULL, version TEXT NOT NULL, acked TEXT,
        PRIMARY KEY (app, number, version)
    ) WITHOUT ROWID;
    INSERT INTO replica SELECT app, number, '', acked FROM shard;
    ALTER TABLE copy RENAME TO copy_of_shard;
    CREATE TABLE copy (
        app TEXT NOT NULL, number INTEGER NOT NULL, version TEXT NOT NULL, watermark TEXT NOT NULL,
        stream_from TEXT NOT NULL, edition TEXT NOT NULL,
        PRIMARY KEY (app, number, version, watermark)
    ) WITHOUT ROWID;
    INSERT INTO copy SELECT app, number, '', watermark, stream_from, edition FROM copy_of_shard;
    DROP TABLE copy_of_shard;
    DROP TABLE shard;
    """,
)


_CLAIM_SECONDS = 1.0
"""Seconds for which a daemon tries to lock its file, which ``is_claimed`` in another process locks for an instant."""


class SqliteStore(WatermarkStore):
    """The store of one daemon (``watermarks.storage: sqlite``). Commands may read and write it at the same time."""

    def __init__(self, path: Path, *, serves: bool = False) -> None:
        """Open or create the file. Raises StoreError.

        :param serves: whether a daemon opens it; a second daemon is refused
        """
        self._trouble: str | None = None  # why the newest write failed
        self._path = path
        self._lock = Lock()
        with ExitStack() as stack, translated(self._path, "opened"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            if serves:
                self._claim(stack)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            stack.callback(self._db.close)  # first: closing any descriptor of the file drops SQLite's locks
            refuse_foreign(path, self._db)
            keep_private(path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")  # what a lost last write recorded can be derived
            self._migrate()
            self._check()
            self._end = stack.pop_all()

    @property
    def trouble(self) -> str | None:
        return self._trouble

    def replica(self, replica: Replica) -> ReplicaRecord | None:
        with self._lock, translated(self._path, "read"):
            return self._record(replica)

    def replicas(self) -> dict[Replica, ReplicaRecord]:
        copies: dict[Replica, list[CopyRecord]] = {}
        columns = "app, number, version, watermark, stream_from, edition"
        for app, number, version, *rest in self._rows(f"SELECT {columns} FROM copy ORDER BY watermark"):
            copies.setdefault(Replica(app, number, version), []).append(CopyRecord(*rest))
        rows = self._rows("SELECT app, number, version, acked FROM replica")
        acked = {Replica(*replica): acked for *replica, acked in rows}
        return {replica: ReplicaRecord(acked.get(replica), tuple(found)) for replica, found in copies.items()}

    def record_copy(self, replica: Replica, copy: CopyRecord) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO replica VALUES (?, ?, ?, NULL)", replica)
            record = (self._record(replica) or ReplicaRecord(None, ())).with_copy(copy)
            db.execute("DELETE FROM copy WHERE app = ? AND number = ? AND version = ?", replica)
            db.executemany("INSERT INTO copy VALUES (?, ?, ?, ?, ?, ?)", [(*replica, *one) for one in record.copies])

    def record_ack(self, replica: Replica, watermark: str) -> None:
        where = "app = ? AND number = ? AND version = ? AND coalesce(acked, '') < ?"
        self._write(f"UPDATE replica SET acked = ? WHERE {where}", watermark, *replica, watermark)

    def record_checkpoint(self, watermark: str, token: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO checkpoint VALUES (?, ?)", (watermark, token))
            db.execute(
                "DELETE FROM checkpoint"
                " WHERE watermark < (SELECT coalesce(min(coalesce(acked, first)), '~') FROM replica NATURAL JOIN"
                " (SELECT app, number, version, min(watermark) AS first FROM copy GROUP BY app, number, version))"
                " AND watermark < (SELECT watermark FROM checkpoint ORDER BY watermark DESC LIMIT 1 OFFSET ?)",
                (CHECKPOINTS,),
            )
            db.execute(
                "DELETE FROM checkpoint"
                " WHERE watermark < (SELECT watermark FROM checkpoint ORDER BY watermark DESC LIMIT 1 OFFSET ?)",
                (CHECKPOINTS_AT_MOST,),
            )

    def latest_checkpoint(self, watermark: str) -> tuple[str, str] | None:
        rows = self._rows(
            "SELECT watermark, token FROM checkpoint WHERE watermark <= ? ORDER BY watermark DESC LIMIT 1", watermark
        )
        return rows[0] if rows else None

    def load_identity(self) -> Identity | None:
        rows = self._rows("SELECT set_id, collections, database FROM identity")
        return Identity(rows[0][0], json.loads(rows[0][1]), rows[0][2]) if rows else None

    def save_identity(self, identity: Identity) -> None:
        collections = json.dumps(identity.collections, sort_keys=True)
        statement = "INSERT OR REPLACE INTO identity VALUES (1, ?, ?, ?)"
        self._write(statement, identity.set_id, collections, identity.database)

    def invalidated_below(self) -> tuple[str, str] | None:
        rows = self._rows("SELECT below, reason FROM invalid")
        return rows[0] if rows else None

    def invalidate(self, watermark: str, reason: str) -> None:
        self._write("INSERT OR REPLACE INTO invalid VALUES (1, ?, ?)", watermark, reason)

    def load_publication(self, fingerprint: str) -> str | None:
        rows = self._rows("SELECT document FROM edition WHERE fingerprint = ?", fingerprint)
        return str(rows[0][0]) if rows else None

    def save_publication(self, fingerprint: str, document: str) -> None:
        self._write("INSERT OR IGNORE INTO edition VALUES (?, ?)", fingerprint, document)

    def epochs(self) -> Sequence[str]:
        return ()

    def append_epoch(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        return True

    def on_epoch_change(self, notify: Callable[[], None]) -> None:
        """Do nothing: the file has one daemon."""

    def contents(self) -> Contents:
        return Contents(
            self.replicas(),
            dict(self._rows("SELECT watermark, token FROM checkpoint ORDER BY watermark")),
            dict(self._rows("SELECT fingerprint, document FROM edition")),
            (),
            self.load_identity(),
            self.invalidated_below(),
        )

    def forget_replica(self, replica: Replica) -> None:
        with self._transaction() as db:
            for table in ("replica", "copy"):
                db.execute(f"DELETE FROM {table} WHERE app = ? AND number = ? AND version = ?", replica)

    def forget_publication(self, fingerprint: str) -> None:
        self._write("DELETE FROM edition WHERE fingerprint = ?", fingerprint)

    def close(self) -> None:
        with self._lock, translated(self._path, "closed"):
            self._end.close()

    def probe(self) -> None:
        with self._transaction() as db:
            db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")  # writes a page

    def _claim(self, stack: ExitStack) -> None:
        """Lock the file against other daemons until the store is closed (flock(2))."""
        descriptor = os.open(self._path, os.O_RDWR)
        stack.callback(os.close, descriptor)
        deadline = Deadline(_CLAIM_SECONDS)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if deadline.expired:
                    raise StoreError(
                        f"watermark store {self._path} is used by another zmsd that runs: end that, or give each one a "
                        "file of its own (watermarks.path)"
                    ) from None
                sleep(0.05)
                continue
            except OSError as error:  # a file system without flock
                log.debug(kv("watermark store not locked", file=self._path, error=error))
            return

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise StoreError(
                f"{self._path}: written by a newer zmsd (store version {version}, this one knows {len(_MIGRATIONS)}): "
                "upgrade zmsd, or set watermarks.path to a new file"
            )
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")

    def _check(self) -> None:
        """Refuse a damaged file, and drop the rows that zmsd cannot have written: what they record becomes unknown."""
        (result,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            raise sqlite3.DatabaseError(f"the file is malformed ({result.splitlines()[-1]})")
        for table, columns in TABLES.items():
            names = ", ".join(columns)
            self._db.text_factory = bytes
            try:
                rows = self._db.execute(f"SELECT {names} FROM {table}").fetchall()
            finally:
                self._db.text_factory = str
            kept = [row for row in (readable(table, row) for row in rows) if row is not None]
            if len(kept) < len(rows):
                log.error(kv("unreadable records dropped", file=self._path, table=table, records=len(rows) - len(kept)))
                marks = ", ".join("?" * len(columns))
                with self._transaction() as db:
                    db.execute(f"DELETE FROM {table}")
                    db.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", kept)

    def _record(self, replica: Replica) -> ReplicaRecord | None:
        """Return the record of a replica. The caller holds the lock."""
        where = "app = ? AND number = ? AND version = ?"
        found = self._db.execute(f"SELECT acked FROM replica WHERE {where}", replica).fetchone()
        columns = "watermark, stream_from, edition"
        copies = self._db.execute(f"SELECT {columns} FROM copy WHERE {where} ORDER BY watermark", replica).fetchall()
        return ReplicaRecord(found[0] if found else None, tuple(CopyRecord(*row) for row in copies)) if copies else None

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._lock, translated(self._path, "read"):
            return self._db.execute(query, values).fetchall()

    def _write(self, statement: str, *values: object) -> None:
        with self._transaction() as db:
            db.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, translated(self._path, "written"):
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # SQLite rolls back by itself if the disk is full
                        self._db.execute("ROLLBACK")
                    raise
        except StoreError as error:
            self._trouble = f"{error.__cause__}: {advice(error.__cause__)}" if error.__cause__ else str(error)
            raise
        self._trouble = None
