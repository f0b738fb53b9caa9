"""A WebSocket client that can behave like a bad network or a bad client: stop reading, disconnect, send garbage."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Mapping

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from zmsd.errors import Violation


class Closed(Exception):
    """The connection has ended. ``code`` is None without a close frame."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(f"code {code}: {reason}")
        self.code = code
        self.reason = reason or ""


class Refused(Exception):
    """The server answered with something other than 101."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"HTTP {status}: {body}")
        self.status = status
        self.body = body


class WebSocket:
    """One thread receives; any thread may send, ping, abort, and stop or resume the reading."""

    def __init__(self, port: int, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None) -> None:
        """Connect the socket only.

        :param receive_buffer: bytes that the kernel accepts for a client that does not read
        """
        self.reading = threading.Event()
        self.reading.set()
        self.pongs = 0
        self._sock = socket.socket()
        if receive_buffer:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._port = port
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._lock = threading.Lock()  # of sending
        self._texts: list[str] = []  # complete messages that were not taken yet
        self._parts: list[str] = []  # parts of an incomplete message
        try:
            self._sock.connect(("127.0.0.1", port))
            if tls is not None:
                self._sock = tls.wrap_socket(self._sock, server_hostname="127.0.0.1")
        except BaseException:
            self._sock.close()
            raise

    def upgrade(self, target: str, headers: Mapping[str, str]) -> None:
        """Open the WebSocket. Raises Refused and Closed, and Violation if the server accepts compression, which is
        offered as zero-cache does."""
        request = Request(
            host=f"127.0.0.1:{self._port}",
            target=target,
            extensions=[PerMessageDeflate()],
            extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        )
        self._send(request)
        refusal: RejectConnection | None = None
        body = b""
        while True:
            try:
                self._receive()
            except Closed:
                if refusal:  # the end of a body without a length
                    raise Refused(refusal.status_code, body.decode(errors="replace")) from None
                raise
            for event in self._ws.events():
                match event:
                    case AcceptConnection():
                        if event.extensions:
                            raise Violation(
                                "the server accepts permessage-deflate, which costs zero-cache most of its speed"
                            )
                        return
                    case RejectConnection():
                        refusal = event
                    case RejectData():
                        body += event.data
                        if event.body_finished and refusal:
                            raise Refused(refusal.status_code, body.decode(errors="replace"))
                if refusal and not refusal.has_body:
                    raise Refused(refusal.status_code, "")

    @property
    def buffered(self) -> bool:
        """Whether a message has arrived completely that was not taken yet."""
        return bool(self._texts)

    def receive(self) -> str:
        """Return the next text message. Raises Closed, and Violation for anything that is not text."""
        while not self._texts:
            for event in self._ws.events():
                self._handle(event)
            if not self._texts:
                self._receive()
        return self._texts.pop(0)

    def send(self, text: str) -> None:
        """Send a ping. Raises Closed."""
        self._send(TextMessage(data=text))

    def send_raw(self, data: bytes) -> None:
        """Send bytes unchanged, whatever they mean to the server. Raises OSError."""
        self._sock.sendall(data)

    def ping(self) -> None:
        self._send(Ping(payload=b"?"))

    def close(self, code: int = 1000) -> None:
        """Send a close frame without waiting for the answer. Idempotent."""
        with contextlib.suppress(Closed):
            self._send(CloseConnection(code=code))
        self.abort(reset=False)

    def abort(self, *, reset: bool = True) -> None:
        """End the connection without a close frame, like a killed client, or with ``reset`` like a machine that answers
        RST."""
        self.reading.set()
        with contextlib.suppress(OSError):
            if reset:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # This wakes the receiving thread. The peer does not notice that reading alone has ended.
            # Shut down TCP, not TLS: otherwise the receiving thread would take the rest as plain text.
            socket.socket.shutdown(self._sock, socket.SHUT_RD if reset else socket.SHUT_RDWR)
        self._sock.close()

    def _handle(self, event: object) -> None:
        match event:
            case TextMessage():
                self._parts.append(event.data)
                if event.message_finished:
                    self._texts.append("".join(self._parts))
                    self._parts.clear()
            case Ping():
                self._send(event.response())
            case Pong():
                self.pongs += 1
            case CloseConnection() if self._ws.state is ConnectionState.OPEN:  # wsproto's error for an unknown frame
                raise Violation(f"no WebSocket: {event.reason}")
            case CloseConnection():
                with contextlib.suppress(Closed):
                    self._send(event.response())
                raise Closed(event.code, event.reason)
            case BytesMessage():
                raise Violation("a binary message")

    def _receive(self) -> None:
        self.reading.wait()
        try:
            data = self._sock.recv(1 << 18)
        except OSError as exc:
            raise Closed(None, str(exc)) from exc
        if not data:
            raise Closed(None, "end of stream")
        try:
            self._ws.receive_data(data)
        except RemoteProtocolError as exc:
            raise Violation(f"no WebSocket: {exc}") from exc

    def _send(self, event: Request | TextMessage | Ping | Pong | CloseConnection) -> None:
        with self._lock:
            try:
                self._sock.sendall(self._ws.send(event))
            except (OSError, LocalProtocolError) as exc:
                raise Closed(None, str(exc)) from exc
