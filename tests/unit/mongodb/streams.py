"""Change streams of a source whose replies a test scripts: events, batches, errors, and an oplog that grows."""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Event, Lock
from typing import Any

import bson
from bson import Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure, PyMongoError

from tests.unit.fakes import FakeSource
from zmsd import position
from zmsd.bson_types import Document
from zmsd.mongodb import raw_batch, resume_token
from zmsd.mongodb.change_cursor import ChangeCursor
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.deployment import Deployment
from zmsd.mongodb.events import ChangeEvent, change_event
from zmsd.mongodb.members import Pin

T = 1795407798 << 32 | 20
"""The position after which the streams begin."""
Answer = tuple[list[Document], Document] | PyMongoError


def mark(at: int) -> Document:
    """Return a token that marks how far the stream has read."""
    return {"_data": f"82{at:016X}2B0229296E04"}


def event(at: int, number: int = 0, coll: str = "a", kind: str = "insert", **more: Any) -> Document:
    """Return an event as mongod sends it."""
    token = {"_data": f"82{at:016X}2B042C01{number:06X}"}
    return {
        "_id": token,
        "operationType": kind,
        "ns": {"coll": coll},
        "documentKey": {"_id": number},
        "fullDocument": {"_id": number},
        **more,
    }


def read(*events: Document) -> list[ChangeEvent]:
    """Return the events of mongod's documents."""
    return [change_event(one) for one in events]


def batch(*events: Document, upto: int | None = None) -> Answer:
    """Return the answer with events, and the token of the last one or of a position."""
    return list(events), events[-1]["_id"] if upto is None else mark(upto)


def failure(code: int) -> OperationFailure:
    """Return an error that the server sends."""
    return OperationFailure("no", code, {"ok": 0, "errmsg": "no", "code": code})


def order(*events: Document) -> list[Document]:
    """Return events as the stream of the order has them."""
    return [{key: one[key] for key in ("_id", "operationType", "ns")} for one in events]


class NoSession:
    """A session of the driver that nothing uses."""

    def end_session(self) -> None:
        pass

    def __enter__(self) -> NoSession:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class NoClient:
    """A client of the driver that begins sessions."""

    def start_session(self, **_: object) -> NoSession:
        return NoSession()


class ScriptedSource(FakeSource):
    """Answers for each stream (collection; None: the database). When they are used up, the stream is idle."""

    def __init__(self, **answers: list[Answer]) -> None:
        super().__init__()
        # As with the versions that store no images, so that no test depends on a collMod.
        self.deployment = Deployment(version=(6, 0, 5), set_name="rs0", stores_images=False)
        self.scripted: dict[str | None, list[Answer]] = {None: answers.pop("database", [])}
        self.scripted.update(answers)
        self.opened: list[tuple[str | None, Document]] = []
        """(collection, options of $changeStream)"""
        self.pipelines: list[list[Document]] = []
        """The stages after $changeStream."""
        self.limits: list[float] = []
        """Seconds that the commands that opened them might take."""
        self.killed: list[int] = []
        self.grouped: Callable[[bool], bool] = lambda imaged: False
        """Whether a write may share its cluster time, by whether it came with its image."""
        self.client: Any = NoClient()
        self._streams: list[str | None] = []
        self._last: dict[str | None, Document] = {}
        self._own_lock = Lock()

    def may_group(self, *, imaged: bool) -> bool:
        return self.grouped(imaged)

    def check_replica_set(self, known: str | None) -> None:
        pass

    def read(
        self,
        command: Document,
        pin: Pin,
        session: Any = None,
        codec: Any = CODEC,
        *,
        seconds: float | None = None,
    ) -> Any:
        with self._own_lock:
            if "killCursors" in command:
                self.killed += command["cursors"]
                return {}
            if "find" in command:  # _wait_for_member
                return {}
            if "aggregate" in command:
                stream = None if command["aggregate"] == 1 else command["aggregate"]
                self.opened.append((stream, command["pipeline"][0]["$changeStream"]))
                self.pipelines.append(command["pipeline"][1:])
                self.limits.append(seconds or 0.0)
                self._streams.append(stream)
                key, number = "firstBatch", len(self._streams)
            else:
                key, number = "nextBatch", int(command["getMore"])
                stream = self._streams[number - 1]
            waiting = self.scripted.setdefault(stream, [])
            answer: Answer = waiting.pop(0) if waiting else ([], self._last.get(stream, mark(T)))
            if isinstance(answer, PyMongoError):
                raise answer
            events, self._last[stream] = answer
        if not events:
            Event().wait(0.005)  # as an idle stream does
        reply = {"id": number, "ns": "db.c", key: events, "postBatchResumeToken": self._last[stream]}
        return {"cursor": reply, "operationTime": Timestamp(T >> 32, 99)}


class Oplog(ScriptedSource):
    """Answers from a history, from any position at which a stream begins."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Document] = []
        self._seen: list[int] = []  # stream -> number of events that it has returned

    @property
    def newest(self) -> int:
        return resume_token.position_of(self.events[-1]["_id"]) if self.events else T

    def write(self, at: int, count: int, rng: random.Random) -> None:
        """Add the events of one transaction."""
        self.events += [event(at, number, rng.choice("ab")) for number in range(count)]

    def read(
        self,
        command: Document,
        pin: Pin,
        session: Any = None,
        codec: Any = CODEC,
        *,
        seconds: float | None = None,
    ) -> Any:
        with self._own_lock:
            if "killCursors" in command:
                return {}
            if "aggregate" in command:
                options = command["pipeline"][0]["$changeStream"]
                if "resumeAfter" in options:
                    seen = [one["_id"]["_data"] <= options["resumeAfter"]["_data"] for one in self.events]
                else:
                    start = f"82{position.of_timestamp(options['startAtOperationTime']):016X}"
                    seen = [one["_id"]["_data"] < start for one in self.events]
                self.opened.append((None if command["aggregate"] == 1 else command["aggregate"], options))
                self._seen.append(sum(seen))
                number = len(self._seen)
            else:
                number = int(command["getMore"])
            stream, size = self.opened[number - 1][0], command.get("batchSize") or command["cursor"]["batchSize"]
            found: list[Document] = []
            while len(found) < size and self._seen[number - 1] < len(self.events):
                one = self.events[self._seen[number - 1]]
                self._seen[number - 1] += 1
                if stream in (None, one["ns"]["coll"]):
                    found.append(one)
            returned = self._seen[number - 1]
            token = self.events[returned - 1]["_id"] if returned else mark(T)
        if not found:
            Event().wait(0.005)
        key = "firstBatch" if "aggregate" in command else "nextBatch"
        reply = {key: found, "postBatchResumeToken": token, "id": number, "ns": "db.c"}
        whole = {"cursor": reply, "operationTime": position.to_timestamp(self.newest)}
        if codec is raw_batch.RAW:
            return RawBSONDocument(self.damaged(bson.encode(whole)), raw_batch.RAW)
        return whole

    def damaged(self, reply: bytes) -> bytes:
        """Return the bytes of a reply, which a test may damage."""
        return reply


def cursor(source: ScriptedSource, collection: str | None = None) -> ChangeCursor:
    """Return a cursor that begins after T."""
    return ChangeCursor(source, collection, T, [])
