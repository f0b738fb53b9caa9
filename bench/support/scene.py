"""Where it happens: one mongod, databases of equal documents, a zmsd as a process of its own."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import bson
import psutil  # type: ignore[import-untyped]
from bson import ObjectId, Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, UpdateOne
from pymongo.database import Database

from tests.support.daemon import ZmsdProcess
from zmsd.demo.mongod import Mongod, temporary_replica_set

Document = dict[str, Any]

Tables = dict[str, tuple[str, Document | None]]
"""Table -> its collection and filter."""

COLUMNS = {"id": "string", "name": "string", "text": "string", "n": "number", "at": "number", "done": "boolean"}
_BATCH = 1000


def document(number: int) -> Document:
    """300 bytes of BSON, a field for each of the six columns."""
    return {
        "_id": ObjectId(),
        "name": f"the name of {number:08}",
        "n": number,
        "done": number % 2 == 0,
        "at": datetime(2024, 1, 1, 12, 30, number % 60),
        "text": "lorem ipsum " * 15,
    }


def documents(count: int) -> list[RawBSONDocument]:
    """Encoded beforehand: the writer shares the processors with what is measured."""
    return [RawBSONDocument(bson.encode(document(number))) for number in range(count)]


class Zmsd(ZmsdProcess):
    """As the tests' one, but silent and never a fork, and it can be weighed and held."""

    forked = False

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.kill()
        # The counting clients of one shard have a replica each.
        trouble = self.log(r"Traceback|ERROR|WARNING(?!.*several replicas of one shard)")
        if trouble or kind is not None:
            print(f"--- {self.stderr_file}\n{self.stderr()}", flush=True)

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return cpu(self.pid)

    def peak_mb(self) -> float:
        """The most memory (RSS) that it has had."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no VmHWM")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Stopped: it takes nothing from anyone, and has all of it before it afterwards."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


class Scene:
    """Databases are made one after the other, each dropped with the next one."""

    def __init__(self, mongod: Mongod, directory: Path) -> None:
        self.client: MongoClient[Document] = MongoClient(mongod.uri())
        self._mongod = mongod
        self.directory = directory
        self._made = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Scene]:
        with temporary_replica_set() as mongod, tempfile.TemporaryDirectory(prefix="zmsd-bench-") as directory:
            scene = cls(mongod, Path(directory))
            with scene.client:
                yield scene

    def fresh(self, collections: int = 1) -> Database[Document]:
        """A database with empty collections c0, c1, … that keep images already."""
        self.client.drop_database(f"bench{self._made}")
        self._made += 1
        db = self.client[f"bench{self._made}"]
        for name in names(collections):
            db.create_collection(name, changeStreamPreAndPostImages={"enabled": True})
        return db

    def uri(self, db: Database[Document]) -> str:
        return self._mongod.uri(db.name)

    def mongod_cpu(self) -> float:
        """Seconds of processor time so far."""
        assert self._mongod.pid is not None
        return cpu(self._mongod.pid)

    def now(self) -> Timestamp:
        """The operationTime: everything written so far is at or before it."""
        time: Timestamp = self.client.admin.command("ping")["operationTime"]
        return time

    def make_zmsd(self, db: Database[Document], *, scope: str = "auto", tables: Tables | None = None) -> Zmsd:
        """Not started yet; its store is empty.

        :param tables: by name; None: a table for each collection
        """
        self._made += 1
        typed = {name: {"type": kind} for name, kind in COLUMNS.items()}
        tables = tables or {name: (name, None) for name in sorted(db.list_collection_names())}
        schema = {name: {"tableName": name, "columns": typed, "primaryKey": ["id"]} for name in tables}
        fields = {name: "_id" if name == "id" else name for name in COLUMNS}
        mappings = {
            name: {"collection": collection, "fields": fields, **({"filter": condition} if condition else {})}
            for name, (collection, condition) in tables.items()
        }
        settings: dict[str, dict[str, Any]] = {
            "feed": {"scope": scope},
            "server": {"max_sessions": 80, "max_sessions_per_address": 80},
        }
        return Zmsd(self.directory / f"zmsd{self._made}", self.uri(db), schema, mappings, settings=settings)

    @contextlib.contextmanager
    def running(self, db: Database[Document], schema: Any, mappings: Any, feed: dict[str, Any]) -> Iterator[Zmsd]:
        """A running one with documents of its own."""
        self._made += 1
        directory = self.directory / f"zmsd{self._made}"
        with Zmsd(directory, self.uri(db), schema, mappings, settings={"feed": feed}) as process:
            process.start()
            yield process

    @contextlib.contextmanager
    def zmsd(self, db: Database[Document], *, scope: str = "auto", tables: Tables | None = None) -> Iterator[Zmsd]:
        """A running one."""
        process = self.make_zmsd(db, scope=scope, tables=tables)
        with process:
            process.start()
            yield process


def names(collections: int) -> list[str]:
    return [f"c{number}" for number in range(collections)]


def cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def insert(db: Database[Document], docs: Sequence[RawBSONDocument], collections: int = 1, writers: int = 1) -> None:
    """insert_many in batches, the collections by turns."""
    batches = [docs[start : start + _BATCH] for start in range(0, len(docs), _BATCH)]

    def write(writer: int) -> None:
        for number in range(writer, len(batches), writers):
            db[f"c{number % collections}"].insert_many(batches[number], ordered=False)

    _together(write, writers)


def update(db: Database[Document], ids: Sequence[Sequence[Any]], turn: int, writers: int) -> None:
    """Each document once, by updates of single documents sent in bulk.

    :param ids: of each collection c0, c1, …
    :param turn: another one each time, so that every row changes
    """
    bulks = [
        (f"c{number}", [UpdateOne({"_id": _id}, {"$set": {"n": turn}}) for _id in of[start : start + _BATCH]])
        for number, of in enumerate(ids)
        for start in range(0, len(of), _BATCH)
    ]

    def write(writer: int) -> None:
        for collection, updates in bulks[writer::writers]:
            db[collection].bulk_write(updates, ordered=False)

    _together(write, writers)


def _together(write: Any, writers: int) -> None:
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
