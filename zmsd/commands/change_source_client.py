"""A small client of a change source: it yields the messages and acknowledges each transaction."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from threading import Semaphore, Thread
from typing import Any
from urllib.parse import urlencode, urlsplit

from simple_websocket import Client, ConnectionClosed
from simple_websocket import ConnectionError as HandshakeError
from wsproto.events import Ping
from wsproto.utilities import ProtocolError

from zmsd.errors import PeerError, PeerGone, reason_of
from zmsd.zero.protocol import PATH

Message = list[Any]

_REFUSALS = {
    400: "HTTP 400, it refuses appID, shardNum or lastWatermark",
    401: "HTTP 401, wrong or missing token",
    404: "HTTP 404, it does not serve this path",
    503: "HTTP 503, it has too many clients",
}


class _Buffer:
    """What simple_websocket needs of its list of received messages, with a limit."""

    def __init__(self, limit: int) -> None:
        self._messages: deque[str | bytes] = deque()
        self._limit = limit
        self._room = Semaphore(limit)

    def __len__(self) -> int:
        return len(self._messages)

    def append(self, message: str | bytes) -> None:
        """Add a message; wait for room. Receive thread only."""
        self._room.acquire()
        self._messages.append(message)

    def pop(self, index: int) -> str | bytes:
        """Return the oldest message. Raises IndexError."""
        message = self._messages.popleft()
        self._room.release()
        return message

    def end(self) -> None:
        """Let a waiting receive thread go on: the connection is closed. Thread-safe."""
        self._room.release(self._limit)


class _Client(Client):  # type: ignore[misc]
    def __init__(self, *arguments: Any, limit: int | None, **options: Any) -> None:
        self.limit = limit
        super().__init__(*arguments, **options)

    def handshake(self) -> None:
        """Handle frames that arrived together with the answer; otherwise they would wait for the next frame."""
        if self.limit is not None:
            self.input_buffer = _Buffer(self.limit)
        super().handshake()
        self.connected = self._handle_events()


class SourceClient:
    """A connection to a change source. For one thread; ``close`` may be called from another."""

    def __init__(
        self,
        url: str,
        app: str = "zero",
        shard: int = 0,
        *,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        limit: int | None = None,
        **query: str,
    ) -> None:
        """Connect. Raises PeerError if no answer comes, or the change source refuses.

        :param url: ``ws://HOST:PORT`` or ``wss://…``, with or without the path
        :param tls: for wss, instead of the authorities of the system
        :param limit: messages that may wait for the reader; then the receive thread stops, and the change source waits
        :param query: added to the query of the URL
        """
        parts = urlsplit(url)
        wanted = urlencode({"appID": app, "shardNum": shard, **query})
        path = parts.path if parts.path.strip("/") else PATH
        address = f"{parts.scheme}://{parts.netloc}{path}?{wanted}" + (f"&{parts.query}" if parts.query else "")
        try:
            self._socket = _Client(
                address,
                headers=dict(headers or {}),
                receive_bytes=1 << 16,
                ssl_context=tls,
                thread_class=partial(Thread, daemon=True),
                limit=limit,
            )
        except (HandshakeError, ProtocolError, OSError, ValueError) as error:
            text = reason_of(error) if isinstance(error, OSError) else str(error)
            reason = _REFUSALS.get(getattr(error, "status_code", None) or 0, text)
            shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"
            raise PeerError(f"{shown} does not answer as a change source: {reason}") from error

    def messages(self, timeout: float) -> Iterator[Message | None]:
        """Yield each message, and None after ``timeout`` seconds without one. Acknowledge each commit.

        Raises PeerGone at the end.
        """
        while True:
            text = self.receive(timeout)
            message = None if text is None else json.loads(text)
            if message and message[0] == "commit":
                self.send(["status", message[1], message[2]])
            yield message

    def receive(self, timeout: float) -> str | None:
        """Return the next message as text; None after ``timeout`` seconds without one. Raises PeerGone."""
        try:
            text: str | None = self._socket.receive(timeout)
        except (ConnectionClosed, OSError) as error:
            raise PeerGone(str(error)) from error
        return text

    def send(self, message: Message) -> None:
        """Send a message. Raises PeerGone."""
        try:
            self._socket.send(json.dumps(message))
        except (ConnectionClosed, OSError) as error:
            raise PeerGone(str(error)) from error

    def ping(self, timeout: float) -> bool:
        """Send a ping, and return whether its pong arrives within ``timeout`` seconds. Raises PeerGone."""
        self._socket.pong_received = False
        try:
            self._socket.sock.send(self._socket.ws.send(Ping()))
        except OSError as error:
            raise PeerGone(str(error)) from error
        end = time.monotonic() + timeout
        while not self._socket.pong_received and self._socket.connected and time.monotonic() < end:
            time.sleep(0.01)
        return bool(self._socket.pong_received)

    def close(self) -> None:
        """Close the connection. Thread-safe."""
        with contextlib.suppress(ConnectionClosed, OSError):
            self._socket.close()
        if isinstance(self._socket.input_buffer, _Buffer):
            self._socket.input_buffer.end()
