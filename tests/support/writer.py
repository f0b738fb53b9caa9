"""Threads that write to MongoDB at random, and record exactly what they committed, and when."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from tests.support.chance import chance
from tests.support.wait import wait_until
from zmsd.commands.strict_tables import Row

Doc = dict[str, Any]

_COLUMNS = {"id": "string", "n": "number", "text": "string", "value": "number", "flag": "boolean", "x": "number"}
_FIELDS = {"id": "_id", "n": "n", "text": "text", "value": "value", "flag": "flag", "x": "nested.x", "nested": "nested"}


def schema_of(collections: Sequence[str]) -> dict[str, Any]:
    """Return a schema document with one table for each collection, of the same name."""
    columns = {name: {"type": kind} for name, kind in (_COLUMNS | {"nested": "json"}).items()}
    return {name: {"tableName": name, "columns": columns, "primaryKey": ["id"]} for name in collections}


def mappings_of(collections: Sequence[str]) -> dict[str, Any]:
    return {name: {"collection": name, "fields": _FIELDS} for name in collections}


def row_of(doc: Doc) -> Row:
    """Return the row that ``mappings_of`` makes of a document."""
    nested = doc.get("nested") or {}
    plain = {"id": doc["_id"], "n": doc["n"], "text": doc.get("text"), "value": doc.get("value")}
    return {**plain, "flag": doc.get("flag"), "x": nested.get("x"), "nested": doc.get("nested")}


@dataclass(frozen=True, slots=True)
class Part:
    collection: str
    id: str
    doc: Doc | None  # the document after the write; None: deleted


@dataclass(frozen=True, slots=True)
class Write:
    """One committed unit: a single write, or a transaction, whose documents all carry its ``number`` in their ``n``."""

    number: int
    position: int  # its clusterTime, seconds << 32 | increment; after an outage it may be a later one
    parts: tuple[Part, ...]


class Writer:
    """Runs threads over collections. Each thread has its own documents, so that the result of each write is known."""

    def __init__(
        self,
        client: MongoClient[Doc],
        database: str,
        collections: Sequence[str],
        *,
        threads: int = 4,
        seed: int = 1,
        pause: float = 0,
        transactions: float = 0.15,
    ) -> None:
        """:param pause: seconds between two writes of a thread
        :param transactions: the part of the writes that are transactions
        """
        self.log: list[Write] = []  # ordered within each thread only
        self.outages = 0  # writes that failed at the first attempt
        self.collections = tuple(collections)
        self._client = client
        # Majority: writes in the log are never rolled back.
        self._database: Database[Doc] = client.get_database(database, write_concern=WriteConcern(w="majority"))
        self._pause = pause
        self._transactions = transactions
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self._left: int | None = None
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._turns = [threading.Lock() for _ in range(threads)]  # each held by its thread while that writes
        self._threads = [
            threading.Thread(target=self._run, args=(name, chance(seed * 1000 + name)), name=f"writer-{name}")
            for name in range(threads)
        ]

    def seed(self, count: int, batch: int = 1000) -> None:
        """Insert documents before the threads start, spread over the collections."""
        for start in range(0, count, batch):
            for offset, collection in enumerate(self.collections):
                docs = [
                    self._fresh(f"seed-{number}", next(self._numbers), chance(number))
                    for number in range(start, min(start + batch, count))
                    if number % len(self.collections) == offset
                ]
                if docs:
                    with self._client.start_session() as session:
                        self._database[collection].insert_many(docs, session=session)
                        parts = [(doc["n"], Part(collection, doc["_id"], doc)) for doc in docs]
                        self.log += [Write(number, _position(session), (part,)) for number, part in parts]

    def start(self, total: int | None = None) -> Writer:
        """Start the threads.

        :param total: number of writes of all threads together; None writes until ``stop``
        """
        self._left = total
        for thread in self._threads:
            thread.start()
        return self

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Complete the writes under way, and make no others until the end of the ``with``."""
        with contextlib.ExitStack() as turns:
            for turn in self._turns:
                turns.enter_context(turn)
            yield

    def stop(self, timeout: float = 60) -> None:
        """Stop after the current writes, and raise the error of a thread that failed."""
        self._stopping.set()
        self.wait(timeout)

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def wait(self, timeout: float = 120) -> None:
        """Wait until ``total`` writes are made. Raises the error of a thread that failed."""
        wait_until(lambda: not self.running, "the writers end", timeout)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(60)

    def last_position(self) -> int:
        """Return the clusterTime of the last write, as one integer."""
        return max(write.position for write in self.log)

    # THE WRITERS' THREADS

    def _run(self, name: int, rng: random.Random) -> None:
        alive: dict[tuple[str, str], Doc] = {}
        ids = itertools.count()
        try:
            with self._client.start_session(causal_consistency=False) as session:
                while not self._stopping.is_set() and self._take():
                    number = next(self._numbers)
                    count = rng.randint(2, 6) if rng.random() < self._transactions else 1
                    parts = tuple(self._choose(rng, alive, name, ids, number, count))
                    with self._turns[name]:
                        self._commit(session, Write(number, 0, parts), rng)
                    for part in parts:
                        if part.doc is None:
                            del alive[part.collection, part.id]
                        else:
                            alive[part.collection, part.id] = part.doc
                    if self._pause:
                        self._stopping.wait(self._pause)
        except BaseException as exc:
            self._error = exc
            self._stopping.set()

    def _take(self) -> bool:
        with self._lock:
            if self._left is None:
                return True
            self._left -= 1
            return self._left >= 0

    def _choose(
        self,
        rng: random.Random,
        alive: dict[tuple[str, str], Doc],
        name: int,
        ids: itertools.count[int],
        number: int,
        count: int,
    ) -> list[Part]:
        """Choose ``count`` different documents, in different collections if possible."""
        parts: dict[tuple[str, str], Part] = {}
        collections = rng.sample(self.collections, len(self.collections))
        for collection in itertools.islice(itertools.cycle(collections), count):
            mine = [key for key in alive if key[0] == collection and key not in parts] if rng.random() < 0.6 else []
            if not mine:
                # Sometimes use the _id of a document that was deleted, or that exists: then it is replaced.
                again = rng.randrange(10) == 0
                key = (collection, f"{name}-{rng.randrange(20) if again else next(ids) + 20}")
                if key not in parts:
                    parts[key] = Part(*key, self._fresh(key[1], number, rng))
                continue
            key = rng.choice(mine)
            if rng.random() < 0.25:
                parts[key] = Part(*key, None)
            elif rng.random() < 0.2:
                parts[key] = Part(*key, self._fresh(key[1], number, rng))
            else:
                parts[key] = Part(*key, _changed(alive[key], number, rng))
        return list(parts.values())

    @staticmethod
    def _fresh(key: str, number: int, rng: random.Random) -> Doc:
        doc: Doc = {"_id": key, "n": number, "text": f"tëxt {number} " + "x" * rng.randrange(200)}
        doc |= {
            "value": rng.random() * 1000,
            "flag": rng.random() < 0.5,
            "nested": {"x": number, "tags": ["a", {"b": number}]},
        }
        if rng.random() < 0.2:
            del doc["nested"]
        return doc

    def _commit(self, session: ClientSession, write: Write, rng: random.Random) -> None:
        """Retry the write until it is made, and log it."""
        while True:
            try:
                if len(write.parts) == 1:
                    self._apply(session, write.parts[0], rng)
                else:
                    with session.start_transaction(write_concern=WriteConcern(w="majority")):
                        for part in write.parts:
                            self._apply(session, part, rng)
                break
            except PyMongoError:
                self.outages += 1
                if self._committed(write):
                    break
        with self._lock:
            self.log.append(Write(write.number, _position(session), write.parts))

    def _apply(self, session: ClientSession, part: Part, rng: random.Random) -> None:
        collection = self._database[part.collection]
        if part.doc is None:
            collection.delete_one({"_id": part.id}, session=session)
        elif rng.random() < 0.5:
            collection.replace_one({"_id": part.id}, part.doc, upsert=True, session=session)
        else:
            fields = {name: value for name, value in part.doc.items() if name != "_id"}
            update: dict[str, Any] = {"$set": fields} | ({} if "nested" in fields else {"$unset": {"nested": ""}})
            collection.update_one({"_id": part.id}, update, upsert=True, session=session)

    def _committed(self, write: Write) -> bool:
        """Return whether a write that failed was made nevertheless. Asks until a primary answers."""
        part = write.parts[0]
        collection = self._database[part.collection].with_options(read_concern=ReadConcern("linearizable"))

        def ask() -> list[Doc | None]:
            try:
                return [collection.find_one({"_id": part.id}, max_time_ms=5000)]
            except PyMongoError:
                return []

        found = wait_until(ask, "a primary answers", 120)[0]
        return found is None if part.doc is None else found is not None and found["n"] == write.number


def _changed(doc: Doc, number: int, rng: random.Random) -> Doc:
    """Return the document after an update of some fields."""
    new = {**doc, "n": number, "value": rng.random() * 1000}
    if rng.random() < 0.3:
        new.pop("nested", None)
    elif rng.random() < 0.5:
        new["nested"] = {"x": number, "tags": []}
    return new


def _position(session: ClientSession) -> int:
    time = session.operation_time
    assert time is not None
    return int(time.time << 32 | time.inc)
