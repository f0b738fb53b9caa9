"""The yardsticks: what pymongo does by itself, and what writing to sockets costs."""

from __future__ import annotations

import socket
import threading
import time
from multiprocessing.connection import Connection as Pipe
from queue import SimpleQueue
from typing import Any

from bson import Timestamp
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database

from bench.support.counter import Count, Worker

_IMAGE = "whenAvailable"


def find(collection: Collection[Any]) -> tuple[float, float]:
    """Seconds, and seconds of processor time, for decoding all documents."""
    started, cpu = time.perf_counter(), time.process_time()
    for _ in collection.find():
        pass
    return time.perf_counter() - started, time.process_time() - cpu


class LiveStream(threading.Thread):
    """A change stream on the database, in this process; notes the time of each event."""

    def __init__(self, db: Database[Any]) -> None:
        super().__init__(name="bare", daemon=True)
        self._stream = db.watch(max_await_time_ms=100)  # so that it ends soon; an event is not kept waiting
        self._events: SimpleQueue[float] = SimpleQueue()
        self._stopping = False

    def __enter__(self) -> LiveStream:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self.join()

    def run(self) -> None:
        with self._stream as stream:
            while not self._stopping:
                if stream.try_next() is not None:
                    self._events.put(time.perf_counter())

    def arrived(self, events: int) -> float:
        """Wait for so many more; the time of the last one (perf_counter)."""
        return [self._events.get(timeout=30) for _ in range(events)][-1]


class BareStream(Worker):
    """A change stream on the database that decodes whole events, images too, in a process of its own."""

    def __init__(self, uri: str, after: Timestamp | None = None) -> None:
        """:param after: operationTime after which it begins; None: now"""
        super().__init__(_watch, uri, after)

    def expect(self, events: int) -> None:
        self.ask(events)

    def reached(self) -> Count:
        """Wait until it has got what was expected."""
        count: Count = self.answer()
        return count


def _watch(pipe: Pipe, uri: str, after: Timestamp | None) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    start = None if after is None else Timestamp(after.time, after.inc + 1)
    db = client.get_default_database()
    with db.watch(start_at_operation_time=start, full_document=_IMAGE, full_document_before_change=_IMAGE) as stream:
        pipe.send(None)
        while True:
            events = pipe.recv()
            cpu = time.process_time()
            for _ in range(events):
                next(stream)
            pipe.send(Count(time.monotonic(), 0, 0, time.process_time() - cpu, ""))


def socket_writes(size: int, chunk: int, sessions: int) -> float:
    """Seconds of processor time for writing so many bytes in all to so many sockets, a chunk at a time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pairs = [(socket.create_connection(server.getsockname()), server.accept()[0]) for _ in range(sessions)]
    readers = [threading.Thread(target=_drain, args=(near,), daemon=True) for near, _ in pairs]
    for reader in readers:
        reader.start()
    data = bytes(chunk)
    started = time.thread_time()
    for _ in range(max(1, size // (chunk * sessions))):
        for _, far in pairs:
            far.sendall(data)
    used = time.thread_time() - started
    for _, far in pairs:
        far.close()
    for reader in readers:
        reader.join()
    return used


def _drain(sock: socket.socket) -> None:
    with sock:
        while sock.recv(1 << 18):
            pass
