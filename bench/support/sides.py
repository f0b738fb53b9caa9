"""The two sources of ``bench.zero``: MongoDB with zmsd, and Postgres with zero-cache's own change source."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from pymongo import MongoClient

from bench.support.counter import Worker
from bench.support.scene import Document, Scene, Zmsd, cpu
from tests.support.postgres import Postgres, PsqlSession

TABLES = [f"c{number}" for number in range(5)]
COLUMNS = {"id": "string", "kind": "string", "name": "string", "n": "number", "done": "boolean", "doc": "json"}
SCHEMA = {
    table: {
        "tableName": table,
        "columns": {name: {"type": kind} for name, kind in COLUMNS.items()},
        "primaryKey": ["id"],
    }
    for table in TABLES
}
_MAPPINGS = {
    table: {"collection": table, "fields": {name: "_id" if name == "id" else name for name in COLUMNS}}
    for table in TABLES
}
_TYPES = {"string": "text", "number": "double precision", "boolean": "boolean", "json": "json"}
_BATCH = 1000


def row(kind: str, number: int) -> Document:
    """Return a row; its id has the kind and eight digits."""
    doc = {"tags": ["a", "b"], "x": 1}
    name = f"the name of {number}"
    return {"id": f"{kind}{number:08}", "kind": kind, "name": name, "n": number, "done": number % 2 == 0, "doc": doc}


class Side(ABC):
    """A source with rows in five tables. A change returns when it is committed."""

    url: str
    """ZERO_UPSTREAM_DB."""
    environment: dict[str, str]
    """More variables of zero-cache."""

    @abstractmethod
    def fill(self, kind: str, count: int) -> None:
        """Insert rows in batches of 1,000, each into one table."""

    @abstractmethod
    def single(self, kind: str, count: int) -> None:
        """Insert rows into the first table, each in a transaction of its own, one after the other."""

    @abstractmethod
    def insert(self, table: str, new: Document) -> None:
        """Insert one row."""

    @abstractmethod
    def update(self, table: str, key: str, n: int) -> None:
        """Set the column n of one row."""

    @abstractmethod
    def insert_together(self, rows: Sequence[tuple[str, Document]]) -> None:
        """Insert rows (table, row) in one transaction."""

    @abstractmethod
    def held(self) -> contextlib.AbstractContextManager[None]:
        """Stop whatever sends changes to zero-cache."""

    @abstractmethod
    def kill_sender(self) -> None:
        """End what sends changes to zero-cache; it starts again at once."""

    @abstractmethod
    def cpu(self) -> dict[str, float]:
        """Return seconds of processor time: "source" is the process between database and zero-cache."""


class MongoSide(Side):
    """MongoDB and zmsd."""

    def __init__(
        self, scene: Scene, stack: contextlib.ExitStack, rows: int, feed: dict[str, Any], writers: int
    ) -> None:
        """:param feed: settings of the section ``feed``
        :param writers: threads that insert rows singly
        """
        self._scene = scene
        self._db = scene.fresh(len(TABLES))
        self.fill("copied", rows)
        self._zmsd: Zmsd = stack.enter_context(scene.running(self._db, SCHEMA, _MAPPINGS, feed))
        self._writer = stack.enter_context(Worker(_insert_singly, scene.uri(self._db), self._db.name, writers))
        self.url = f"ws://127.0.0.1:{self._zmsd.port}/changes/v0/stream"
        self.environment = {}

    def fill(self, kind: str, count: int) -> None:
        for batch, numbers in enumerate(_batches(count)):
            self._db[TABLES[batch % len(TABLES)]].insert_many([_document(row(kind, number)) for number in numbers])

    def single(self, kind: str, count: int) -> None:
        self._writer.ask((kind, count))
        self._writer.answer()

    def insert(self, table: str, new: Document) -> None:
        self._db[table].insert_one(_document(new))

    def update(self, table: str, key: str, n: int) -> None:
        self._db[table].update_one({"_id": key}, {"$set": {"n": n}})

    def insert_together(self, rows: Sequence[tuple[str, Document]]) -> None:
        with self._scene.client.start_session() as session, session.start_transaction():
            for table, new in rows:
                self._db[table].insert_one(_document(new), session=session)

    def held(self) -> contextlib.AbstractContextManager[None]:
        return self._zmsd.held()

    def kill_sender(self) -> None:
        self._zmsd.kill()
        self._zmsd.launch()

    def cpu(self) -> dict[str, float]:
        return {"source": self._zmsd.cpu(), "database": self._scene.mongod_cpu()}


class PostgresSide(Side):
    """Postgres, which zero-cache reads itself."""

    def __init__(self, postgres: Postgres, stack: contextlib.ExitStack, rows: int, name: str) -> None:
        self._postgres = postgres
        self.url = postgres.create(name)
        self.environment = {"ZERO_UPSTREAM_TYPE": "pg"}
        self._session: PsqlSession = stack.enter_context(postgres.session(self.url))
        columns = ", ".join(f"{name} {_TYPES[kind]}" for name, kind in COLUMNS.items())
        for table in TABLES:
            self._session.run(f"CREATE TABLE {table} ({columns}, PRIMARY KEY (id));")
        self.fill("copied", rows)

    def fill(self, kind: str, count: int) -> None:
        for batch, numbers in enumerate(_batches(count)):
            values = ", ".join(_values(row(kind, number)) for number in numbers)
            self._session.run(f"INSERT INTO {TABLES[batch % len(TABLES)]} VALUES {values};")

    def single(self, kind: str, count: int) -> None:
        for numbers in _batches(count):
            inserts = [f"INSERT INTO {TABLES[0]} VALUES {_values(row(kind, number))};" for number in numbers]
            self._session.run("\n".join(inserts))

    def insert(self, table: str, new: Document) -> None:
        self._session.run(f"INSERT INTO {table} VALUES {_values(new)};")

    def update(self, table: str, key: str, n: int) -> None:
        self._session.run(f"UPDATE {table} SET n = {n} WHERE id = '{key}';")

    def insert_together(self, rows: Sequence[tuple[str, Document]]) -> None:
        self._session.run("BEGIN;")
        for table, new in rows:  # one call each, as in MongoDB
            self._session.run(f"INSERT INTO {table} VALUES {_values(new)};")
        self._session.run("COMMIT;")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        senders = self._senders()
        try:
            for pid in senders:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in senders:
                os.kill(pid, signal.SIGCONT)

    def kill_sender(self) -> None:
        for pid in self._senders():
            os.kill(pid, signal.SIGTERM)  # SIGKILL would make all of Postgres start again

    def cpu(self) -> dict[str, float]:
        return {"database": postgres_cpu(self._postgres)}

    def _senders(self) -> list[int]:
        sql = "SELECT pid FROM pg_stat_replication JOIN pg_stat_activity USING (pid) WHERE datname = current_database()"
        found = [int(pid) for (pid,) in self._postgres.query(self.url, sql)]
        assert found, "no walsender"
        return found


def postgres_cpu(postgres: Postgres) -> float:
    """Return the seconds of a server, with its ended children."""
    times = psutil.Process(postgres.pid).cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process(postgres.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += cpu(child.pid)
    return float(total)


def zero_cache_cpu(replica: Path) -> dict[str, float]:
    """Return the seconds of each process of a zero-cache, by the name of its worker."""
    mine = f"ZERO_REPLICA_FILE={replica}".encode()
    found: dict[str, float] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if mine in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                scripts = [Path(part).stem for part in process.cmdline() if part.endswith((".js", ".ts"))]
                name = scripts[0] if scripts else process.name()
                found[name] = found.get(name, 0.0) + cpu(process.pid)
    return found


def _batches(count: int) -> list[range]:
    return [range(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH)]


def _document(new: Document) -> Document:
    return {"_id": new["id"], **{name: new[name] for name in COLUMNS if name != "id"}}


def _values(new: Document) -> str:
    texts = [json.dumps(new["doc"]) if name == "doc" else str(new[name]) for name in COLUMNS]
    return "(" + ", ".join(f"'{text}'" for text in texts) + ")"


def _insert_singly(pipe: Pipe, uri: str, database: str, writers: int) -> None:
    """Insert documents from some threads, in a process of its own, so that pymongo's time does not delay the reader of
    the Zero client."""
    with MongoClient[Document](uri) as client, ThreadPoolExecutor(writers) as pool:
        table = client[database][TABLES[0]]

        def insert(kind: str, numbers: range) -> None:
            for number in numbers:
                table.insert_one(_document(row(kind, number)))

        insert("before", range(1))
        pipe.send(None)
        while True:
            kind, count = pipe.recv()
            list(pool.map(partial(insert, kind), [range(first, count - 1, writers) for first in range(writers)]))
            insert(kind, range(count - 1, count))  # after all others
            pipe.send(None)
