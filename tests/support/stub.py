"""A change source that sends prepared messages, to measure what zero-cache itself can process."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage

from tests.support.wait import wait_until

Message = list[Any]
_TYPES = {"string": "text", "number": "double precision", "boolean": "boolean", "json": "json"}


def lexi(number: int) -> str:
    """Return a watermark: the LexiVersion of ``number``."""
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return "0123456789abcdefghijklmnopqrstuvwxyz"[len(digits) - 1] + digits


def relation(table: str, key: Sequence[str]) -> dict[str, Any]:
    return {"schema": "public", "name": table, "rowKey": {"columns": list(key)}, "keyColumns": list(key)}


def create_table(table: str, columns: dict[str, str], key: Sequence[str]) -> list[Message]:
    """Return the messages that create a table with its unique index. ``columns`` has Zero's types, or Postgres's."""
    specs = {
        name: {"pos": pos, "dataType": _TYPES.get(kind, kind), "notNull": name in key}
        for pos, (name, kind) in enumerate(columns.items(), 1)
    }
    table_spec = {"schema": "public", "name": table, "columns": specs, "primaryKey": list(key)}
    index = {
        "schema": "public",
        "name": f"{table}_key",
        "tableName": table,
        "unique": True,
        "columns": dict.fromkeys(key, "ASC"),
    }
    return [
        ["data", {"tag": "create-table", "spec": table_spec}],
        ["data", {"tag": "create-index", "spec": index}],
    ]


def required_tables(app: str = "zero", shard: int = 0) -> list[Message]:
    """Return the tables and the row without which zero-cache does not start."""
    schema = f"{app}_{shard}"
    clients = {"clientGroupID": "string", "clientID": "string", "lastMutationID": "int8", "userID": "string"}
    mutations = {
        "clientGroupID": "string",
        "clientID": "string",
        "mutationID": "int8",
        "mutation": "json",
        "result": "json",
    }
    permissions = {"permissions": "json", "hash": "string", "lock": "boolean"}
    row = {"lock": True, "permissions": None, "hash": None}
    return [
        *create_table(f"{schema}.clients", clients, ["clientGroupID", "clientID"]),
        *create_table(f"{schema}.mutations", mutations, ["clientGroupID", "clientID", "mutationID"]),
        *create_table(f"{app}.permissions", permissions, ["lock"]),
        ["data", {"tag": "insert", "relation": relation(f"{app}.permissions", ["lock"]), "new": row}],
    ]


def transaction(watermark: int, data: Iterable[Message], **begin: Any) -> list[Message]:
    mark = lexi(watermark)
    first = {"tag": "begin", "json": "s", **begin}
    commit = {"tag": "commit", "commitTimeMs": int(time.time() * 1000)}
    return [["begin", first, {"commitWatermark": mark}], *data, ["commit", commit, {"watermark": mark}]]


def frame(text: str) -> bytes:
    """Return one unmasked WebSocket text frame."""
    payload = text.encode()
    if len(payload) < 126:
        return b"\x81" + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload
    return b"\x81\x7f" + len(payload).to_bytes(8, "big") + payload


def frames(messages: Iterable[Message]) -> bytes:
    return b"".join(frame(json.dumps(message, separators=(",", ":"))) for message in messages)


class StubSource:
    """Sends ``initial`` to a first connection, and everything given to ``push`` to a streaming one."""

    def __init__(self, initial: bytes) -> None:
        self.initial = initial
        self.acks: list[str] = []
        self.connections: list[dict[str, list[str]]] = []
        self.initial_seconds = 0.0  # from the first byte of the initial sync to zero-cache's close
        self._log: list[bytes] = []
        self._streaming: socket.socket | None = None  # the newest connection that asked for the stream
        self._changed = threading.Condition()
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/changes/v0/stream"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> StubSource:
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.close()

    def push(self, data: bytes) -> None:
        """Send complete frames to the streaming connection. Frames from before its connection are kept, and never
        repeated."""
        with self._changed:
            self._log.append(data)
            self._changed.notify_all()

    def wait_ack(self, watermark: int, timeout: float = 30) -> None:
        wanted = lexi(watermark)
        wait_until(lambda: wanted in self.acks[-1:], f"ack of {wanted}", timeout)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for sock in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection = WSConnection(ConnectionType.SERVER)
        lock = threading.Lock()  # A pong is sent between two pushes, never inside one.
        while True:
            try:
                data = sock.recv(65536)
            except OSError:
                return
            if not data:
                return
            connection.receive_data(data)
            for event in connection.events():
                match event:
                    case Request():
                        query = parse_qs(urlsplit(event.target).query)
                        self.connections.append(query)
                        with contextlib.suppress(OSError):
                            sock.sendall(connection.send(AcceptConnection()))
                        target = self._stream if "lastWatermark" in query else self._copy
                        threading.Thread(target=target, args=(sock, lock), daemon=True).start()
                        started = time.monotonic()
                    case TextMessage():
                        self.acks.append(json.loads(event.data)[2]["watermark"])
                    case Ping():
                        with lock, contextlib.suppress(OSError):
                            sock.sendall(connection.send(event.response()))
                    case CloseConnection():
                        if "lastWatermark" not in query:
                            self.initial_seconds = time.monotonic() - started
                        sock.close()
                        return

    def _copy(self, sock: socket.socket, lock: threading.Lock) -> None:
        with lock, contextlib.suppress(OSError):  # the client may have disconnected
            sock.sendall(self.initial)

    def _stream(self, sock: socket.socket, lock: threading.Lock) -> None:
        with self._changed:
            self._streaming = sock
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._log or self._streaming is not sock)
                if self._closed or self._streaming is not sock:
                    return
                data = b"".join(self._log)
                self._log.clear()
            try:
                with lock:
                    sock.sendall(data)
            except OSError:
                return
