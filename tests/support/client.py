"""A strict stand-in for zero-cache: one connection for the initial sync, then one that streams, and again from the last
commit."""

from __future__ import annotations

import contextlib
import json
import math
import ssl
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from bson import Timestamp

from tests.support.stub import lexi
from tests.support.wait import FACTOR
from tests.support.websocket import Closed, Refused, WebSocket
from zmsd.commands.strict_replica import Replica, Transaction
from zmsd.commands.strict_tables import Key, Row
from zmsd.errors import Violation

_PATH = "/changes/v0/stream"
_RECONNECT = 0.03  # seconds, as zero-cache, which has no backoff


def watermark_of(time: Timestamp) -> str:
    """Return the watermark of a clusterTime or operationTime."""
    return lexi(time.time << 32 | time.inc)


def _ack(watermark: str) -> list[Any]:
    """As zero-cache 1.10 sends it (change-streamer/upstream-acker.ts in rocicorp/mono)."""
    return ["status", {"tag": "commit"}, {"watermark": watermark}]


class ChangeSourceClient:
    """Plays until it is closed; what the source did wrong is raised by every wait, and at the end of the ``with``.

    ``replica`` may be one that another client has left off: it goes on from there.
    """

    def __init__(
        self,
        port: int,
        *,
        app: str = "zero",
        shard: int = 0,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        replica: Replica | None = None,
        again: bool = False,
        coalesced: bool = True,
        ack_seconds: float = 0.0,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``again``: start the copy over when it is cut short, where zero-cache would exit and be started again.

        ``coalesced``: as zero-cache 1.10, one ack for all commits that have arrived, and the last one again after a
        reconnect; otherwise as 1.9, one for each commit.

        ``ack_seconds``: delay of each ack of a commit; math.inf: never.
        """
        self.replica = replica or Replica(app, shard)
        self.connections = 0  # connections that the source accepted
        self.refusals: list[Refused] = []
        self.closings: list[Closed] = []  # how connections ended that the client did not end
        self._port = port
        self._query = {"appID": app, "shardNum": str(shard), **(query or {})}
        self._headers = dict(headers or {})
        self._again = again
        self._coalesced = coalesced
        self._ack_seconds = ack_seconds
        self._receive_buffer = receive_buffer
        self._tls = tls
        self._changed = threading.Condition()  # for everything above and the replica
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._socket: WebSocket | None = None
        self._streaming = False
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    # FOR TESTS

    def __enter__(self) -> ChangeSourceClient:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.close(check=kind is None)

    def start(self) -> ChangeSourceClient:
        self._thread.start()
        return self

    def close(self, *, check: bool = True) -> None:
        """Disconnect, and raise the source's errors, if any."""
        self._stopping.set()
        self.hang_up(reset=False)
        if self._thread.ident is not None:
            self._thread.join(10)
        if check:
            self.check()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def hang_up(self, *, reset: bool = True) -> None:
        """Drop the connection without a close frame; the client makes a new one."""
        if socket := self._socket:
            socket.abort(reset=reset)

    def stop_reading(self) -> None:
        if socket := self._socket:
            socket.reading.clear()

    def go_on_reading(self) -> None:
        if socket := self._socket:
            socket.reading.set()

    def ping(self) -> None:
        if socket := self._socket:
            socket.ping()

    @property
    def pongs(self) -> int:
        return self._socket.pongs if self._socket else 0

    def rows(self, table: str) -> dict[Key, Row]:
        """Return the table's rows as of the last commit."""
        with self._changed:
            return dict(self.replica.rows.get(table, {}))

    def transactions(self) -> list[Transaction]:
        """Return the transactions so far, without the initial sync and empty ones."""
        with self._changed:
            return [transaction for transaction in self.replica.transactions if transaction.changes]

    def wait_for(self, fact: Callable[[Replica], object], description: str, timeout: float = 30) -> None:
        """Wait until ``fact``, called after every commit, is true. Raises the source's errors, and AssertionError."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._error or fact(self.replica), timeout * FACTOR)
            self.check()
            assert done, f"not within {timeout} s: {description}; {self._state()}"

    def wait_initial(self, timeout: float = 60) -> None:
        """Wait until the initial sync is complete and a connection streams."""
        self.wait_for(lambda replica: replica.version and self._streaming, "the copy is complete", timeout)

    def wait_connected(self, connections: int, timeout: float = 30) -> None:
        """Wait until this many connections have been accepted, one after the other."""
        self.wait_for(lambda _: self.connections >= connections, f"{connections} connections", timeout)

    def wait_watermark(self, time: Timestamp, timeout: float = 60) -> None:
        """Wait until everything up to a clusterTime is committed; a change must follow it or be at it."""
        wanted = watermark_of(time)
        self.wait_for(lambda replica: replica.watermark >= wanted, f"the watermark {wanted}", timeout)

    def wait_rows(self, table: str, count: int, timeout: float = 30) -> dict[Key, Row]:
        """Wait until the table has this many rows, and return them."""
        self.wait_for(lambda replica: len(replica.rows.get(table, ())) == count, f"{count} rows in {table}", timeout)
        return self.rows(table)

    # THE CLIENT'S OWN THREAD

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self.replica.reset_required is None:
                self._connection()
                self._stopping.wait(_RECONNECT)
        except BaseException as exc:
            with self._changed:
                self._error = exc
                self._changed.notify_all()

    def _connection(self) -> None:
        """Serve one connection from its beginning to its end. Raises Violation."""
        initial = self.replica.version is None
        query = dict(self._query)
        if not initial:
            query |= {"lastWatermark": self.replica.watermark, "replicaVersion": str(self.replica.version)}
        end: Exception | None = None
        try:
            self._socket = WebSocket(self._port, receive_buffer=self._receive_buffer, tls=self._tls)
            if self._stopping.is_set():  # close() may have searched for the socket just before
                self._socket.abort(reset=False)
            self._socket.upgrade(f"{_PATH}?{urlencode(query)}", self._headers)
            with self._changed:
                self.connections += 1
                self._streaming = not initial
                self._changed.notify_all()
            self._play(self._socket, initial)
        except (Closed, Refused, OSError) as exc:
            end = exc
        finally:
            if self._socket:
                self._socket.close()
            with self._changed:
                self._socket = None
                self._streaming = False
                self.replica.disconnected()
                if isinstance(end, Refused):
                    self.refusals.append(end)
                if isinstance(end, Closed) and not self._stopping.is_set():
                    self.closings.append(end)
                self._changed.notify_all()
        if initial and self.replica.version is None and not self._again and not self._stopping.is_set():
            raise Violation(f"the initial sync was cut short: {end}")

    def _play(self, socket: WebSocket, initial: bool) -> None:
        """Take messages until the initial sync is complete, or without end. Raises Closed and Violation."""
        acknowledged = ""
        if not initial and self._coalesced:
            self._answer(socket, _ack(self.replica.watermark))
        while True:
            text = socket.receive()
            with self._changed:
                commits = len(self.replica.transactions)
                answer = self.replica.receive(text)
                complete = initial and self.replica.version is not None
                if complete or len(self.replica.transactions) > commits or self.replica.reset_required is not None:
                    self._changed.notify_all()
            if initial or not self._coalesced or text.startswith('["status"'):
                self._answer(socket, answer)
            elif not socket.buffered and self.replica.watermark != acknowledged:
                acknowledged = self.replica.watermark
                self._acknowledge(socket, acknowledged)
            if complete or self.replica.reset_required is not None:
                return

    def _acknowledge(self, socket: WebSocket, watermark: str) -> None:
        if not self._ack_seconds:
            self._answer(socket, _ack(watermark))
        elif self._ack_seconds < math.inf:
            timer = threading.Timer(self._ack_seconds, self._answer, (socket, _ack(watermark)))
            timer.daemon = True
            timer.start()

    def _answer(self, socket: WebSocket, message: list[Any] | None) -> None:
        if message is not None:
            with contextlib.suppress(Closed):  # what was sent before the end is still there to be read
                socket.send(json.dumps(message))

    def _state(self) -> str:
        replica = self.replica
        counts = {name: len(rows) for name, rows in replica.rows.items()}
        ends = [str(end) for end in (*self.refusals, *self.closings)][-3:]
        return (
            f"version={replica.version} watermark={replica.watermark} transactions={len(replica.transactions)} "
            f"rows={counts} connections={self.connections} reset={replica.reset_required} ends={ends}"
        )
