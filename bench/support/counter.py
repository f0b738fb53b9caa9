"""Clients of zmsd that cost next to nothing: they look for messages in the bytes, and parse none of them."""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

# An unescaped quote stands in no row: these are what they look like.
_DATA = b'["data",'
_COMMIT = b'["commit",'
_CONTROL = b'["control",'
_BEGIN = b'["begin",'
_MOST = 400  # bytes: more than a commit and a lag report have
_PATIENCE = 120.0  # seconds

SPAWN = multiprocessing.get_context("spawn")


class Connection:
    """A WebSocket to zmsd: connects, receives, counts, confirms every commit."""

    def __init__(self, port: int, watermark: str | None = None, shard: int = 0) -> None:
        """:param watermark: of the copy after which to stream; None: to be sent the copy
        :param shard: a copy takes the place of the shard's earlier one, from which nobody can go on then
        """
        query = f"appID=zero&shardNum={shard}"
        query += f"&lastWatermark={watermark}&replicaVersion={watermark}" if watermark else ""
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = (
            f"GET /changes/v0/stream?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.socket.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._recv()
        answer, _, self._rest = head.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101"), answer.decode()
        self.messages = 0  # data messages
        self.commits = 0
        self.bytes = 0
        self.last = ""
        self.whole = True
        """No transaction has come after the last commit."""
        self.at = 0.0
        """When the newest bytes came (perf_counter)."""

    def receive(self) -> bool:
        """Wait for bytes and look through them; whether they hold a commit."""
        data = self._recv()
        self.at = time.perf_counter()
        self.bytes += len(data)
        data = self._rest + data
        last = data.rfind(_COMMIT, max(0, len(data) - _MOST))
        # A lag report may follow the commit.
        self.whole = last >= 0 and data.endswith(b"}]") and data.find(_BEGIN, last) < 0
        end = len(data) if self.whole else max(0, len(data) - _MOST)  # beyond it a message may not be complete
        self._rest = data[end:]
        self.messages += data.count(_DATA, 0, end + len(_DATA) - 1)
        before = self.commits
        start = data.find(_COMMIT, 0, end + len(_COMMIT) - 1)
        while start >= 0:
            self.commits += 1
            mark = data.index(b'"watermark":"', start) + 13
            self._confirm(data[mark : data.index(b'"', mark)])
            start = data.find(_COMMIT, mark, end + len(_COMMIT) - 1)
        assert _CONTROL not in data[-1000:], data[-1000:]
        return self.commits > before

    def close(self) -> None:
        self.socket.close()

    def _confirm(self, watermark: bytes) -> None:
        self.last = watermark.decode()
        payload = b'["status",{"tag":"commit"},{"watermark":"%b"}]' % watermark
        self.socket.sendall(bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload)  # masked with zeros

    def _recv(self) -> bytes:
        data = self.socket.recv(1 << 18)
        if not data:
            raise EOFError("zmsd has closed the connection")
        return data


class Live(threading.Thread):
    """A client at the live edge, in this process; notes the time of each commit."""

    def __init__(self, port: int, watermark: str) -> None:
        super().__init__(name="live", daemon=True)
        self._connection = Connection(port, watermark)
        self._commits: SimpleQueue[tuple[float, int]] = SimpleQueue()
        self._seen = 0
        self.transactions: list[int] = []
        """Messages in each transaction that ``arrived`` has waited for."""

    def __enter__(self) -> Live:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Hang up; may be called twice."""
        if self.is_alive():
            self._connection.socket.shutdown(socket.SHUT_RDWR)
            self.join()
        self._connection.close()

    def run(self) -> None:
        try:
            while True:
                if self._connection.receive():
                    self._commits.put((self._connection.at, self._connection.messages))
        except (EOFError, OSError):
            return

    def arrived(self, messages: int) -> float:
        """Wait until so many more have come since the last call; the time of that commit (perf_counter)."""
        subscription = self._seen + messages
        while True:
            at, seen = self._commits.get(timeout=_PATIENCE)
            self.transactions.append(seen - self._seen)
            self._seen = seen
            if seen >= subscription:
                return at

    def skip(self, quiet: float = 0.2) -> None:
        """Forget what comes until nothing has come for so many seconds."""
        try:
            while True:
                _, self._seen = self._commits.get(timeout=quiet)
        except Empty:
            return


class Count(NamedTuple):
    """What a process has seen until it had what was waited for."""

    at: float
    """time.monotonic(), the same clock for all processes."""
    bytes: int
    commits: int
    cpu: float
    """Seconds of its processor time."""
    watermark: str
    """The newest one."""


class Worker:
    """A function with one end of a pipe, in a process of its own; ready when it has sent something."""

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=function, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is noticed
        self.ready = self.answer()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def ask(self, question: Any) -> None:
        self._pipe.send(question)

    def waiting(self) -> bool:
        """There is an answer."""
        return self._pipe.poll()

    def answer(self) -> Any:
        assert self._pipe.poll(_PATIENCE), "a counting process does not answer"
        return self._pipe.recv()


class Follower(Worker):
    """Sessions that stream, in a process of their own."""

    def __init__(self, port: int, watermark: str, sessions: int = 1, shard: int = 0) -> None:
        super().__init__(_follow, port, watermark, sessions, shard)

    def expect(self, messages: int) -> None:
        """Begin to count: each session shall get so many messages from now on."""
        self.ask(messages)
        self.answer()

    def reached(self) -> Count:
        """Wait until each has got what was expected, to the commit."""
        count: Count = self.answer()
        return count


def copy(port: int, shard: int = 0) -> tuple[str, float, int]:
    """Be sent the copy, in a process of its own: watermark, seconds from connecting to the commit, messages."""
    with Worker(_copy, port, shard) as worker:
        worker.ask(None)
        result: tuple[str, float, int] = worker.answer()
        return result


def _copy(pipe: Pipe, port: int, shard: int) -> None:
    pipe.send(None)
    pipe.recv()
    started = time.monotonic()
    connection = Connection(port, shard=shard)
    while not connection.receive():
        pass
    seconds = time.monotonic() - started
    connection.close()
    pipe.send((connection.last, seconds, connection.messages))


def _follow(pipe: Pipe, port: int, watermark: str, sessions: int, shard: int) -> None:
    connections = [Connection(port, watermark, shard) for _ in range(sessions)]
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    selector.register(pipe, selectors.EVENT_READ)
    pipe.send(None)
    waiting: set[Connection] = set()
    while True:
        for key, _ in selector.select():
            connection = key.data
            if connection is None:
                more = pipe.recv()
                waiting = set(connections)
                subscription = {connection: connection.messages + more for connection in connections}
                received, committed = sum(c.bytes for c in connections), sum(c.commits for c in connections)
                cpu = time.process_time()
                pipe.send(None)
                continue
            connection.receive()
            if connection in waiting and connection.whole and connection.messages >= subscription[connection]:
                waiting.discard(connection)
                if not waiting:
                    now = time.monotonic()
                    received = sum(c.bytes for c in connections) - received
                    committed = sum(c.commits for c in connections) - committed
                    pipe.send(Count(now, received, committed, time.process_time() - cpu, connection.last))
