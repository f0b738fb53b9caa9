"""One connection: a request, its routes and tokens, and what becomes of it."""

from __future__ import annotations

import base64
import contextlib
import hmac
import io
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from struct import pack
from threading import Event
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import parse_qs, urlsplit

from zmsd import __version__, position
from zmsd.deadline import Deadline
from zmsd.errors import PeerError, PeerProtocolError
from zmsd.gateway.session import Session, Subscription
from zmsd.gateway.websocket import Peer
from zmsd.log import kv
from zmsd.zero import protocol

log = logging.getLogger(__name__)

REFUSAL_DELAY = 1.0
"""Seconds before a refusal is said: zero-cache tries again after 30 ms, without any backoff."""
REQUEST_SECONDS = 10.0
"""Seconds in which a request's line and headers must have come."""
REQUEST_BYTES = 32 << 10
"""Of a request's line and headers together."""


class Page(NamedTuple):
    status: int
    type: str
    body: str


class Limits(NamedTuple):
    """What a reload may change without a restart."""

    tokens: tuple[str, ...] = ()
    max_sessions: int = 64
    max_sessions_per_address: int = 16


class Host(Protocol):
    """What a connection needs of the server."""

    limits: Limits
    pages: Mapping[str, Callable[[], Page]]
    stopping: Event

    def admit(self, address: str, wanted: Subscription) -> Session | str: ...

    def leave(self, session: Session) -> None: ...


class _TooLarge(Exception):
    """A request has more than REQUEST_BYTES."""


class _Timed(io.RawIOBase):
    """Reads a socket until a deadline, however slowly the bytes come, and no more than a request may have."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._room = REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline.remaining()
        if not left:
            raise TimeoutError("request took too long")
        if not self._room:
            raise _TooLarge
        self._sock.settimeout(left)
        count = self._sock.recv_into(memoryview(buffer)[: self._room])
        self._room -= count
        return count


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    protocol_version = "HTTP/1.1"
    server_version = f"zmsd/{__version__}"
    sys_version = ""

    @property
    def host(self) -> Host:
        return cast(Host, self.server)

    def setup(self) -> None:
        super().setup()
        self.rfile = self._reader = io.BufferedReader(_Timed(self.connection, Deadline(REQUEST_SECONDS)))

    def handle(self) -> None:
        self.close_connection = True
        try:
            if self._reader.peek(1)[:1].isalpha():
                self.handle_one_request()
            else:
                self._cut()
        except _TooLarge:
            self.requestline, self.request_version, self.command = "", self.protocol_version, ""
            self._refuse(431, f"line and headers of a request may have {REQUEST_BYTES} bytes")
        except OSError as error:
            log.debug(kv("connection lost", address=self.client_address[0], error=error))

    def _cut(self) -> None:
        """No HTTP. zero-cache 0.25 takes its upstream for a Postgres too: it says hello when it starts, and is not
        ready until that has failed. Only a reset fails; after an end it tries again, for ever."""
        log.debug(kv("connection cut, not HTTP", address=self.client_address[0]))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        self.connection.close()

    def do_GET(self) -> None:
        try:
            url = urlsplit(self.path)
        except ValueError as error:
            self._answer(400, str(error))
            return
        page = self.host.pages.get(url.path)
        if url.path == protocol.PATH:
            self._stream(parse_qs(url.query, keep_blank_values=True))
        elif self._wants_websocket():  # of a refusal zero-cache shows its operator no more than the status
            self._refuse(404, f"no WebSocket at {url.path}: it is at {protocol.PATH}")
        elif page is None:
            known = " ".join(sorted([protocol.PATH, *self.host.pages]))
            self._answer(404, f"nothing at {url.path}; there is: {known}")
        elif url.path not in ("/", "/healthz", "/readyz") and not self._allowed(parse_qs(url.query)):
            self._refuse(401, "wrong or missing token")
        else:
            self._send_page(page())

    def _stream(self, query: dict[str, list[str]]) -> None:
        if not self._allowed(query):
            return self._refuse(401, "wrong or missing token: give it as ?token=…, as Basic password or as Bearer")
        if not self._wants_websocket():
            return self._answer(426, "this is a WebSocket endpoint", {"Upgrade": "websocket", "Connection": "Upgrade"})
        try:
            wanted = subscription(query)
        except ValueError as error:
            return self._refuse(400, str(error))
        session = self.host.admit(self.client_address[0], wanted)
        if isinstance(session, str):
            return self._refuse(503, session)
        try:
            headers = {key.lower(): value for key, value in self.headers.items()}
            session.run(Peer(self.connection, headers, f"session-{session.number}"))
        except PeerProtocolError as error:
            self._refuse(400, str(error))
        except PeerError as error:
            log.debug(kv("connection lost", address=self.client_address[0], error=error))
        finally:
            self.host.leave(session)

    def _wants_websocket(self) -> bool:
        return bool(self.headers.get("Upgrade", "").lower() == "websocket")

    def _allowed(self, query: dict[str, list[str]]) -> bool:
        tokens = self.host.limits.tokens
        if not tokens:
            return True
        kind, _, credentials = self.headers.get("Authorization", "").partition(" ")
        given = [*query.get("token", ()), *query.get("k", ())]
        if kind.lower() == "bearer":
            given.append(credentials.strip())
        elif kind.lower() == "basic":
            with contextlib.suppress(ValueError):
                given.append(base64.b64decode(credentials).decode().partition(":")[2])
        # All are compared, in constant time each.
        matches = [hmac.compare_digest(one.encode(), token.encode()) for one in given for token in tokens]
        return any(matches)

    def _refuse(self, status: int, reason: str) -> None:
        log.warning(kv("request refused", address=self.client_address[0], status=status, reason=reason))
        self.host.stopping.wait(REFUSAL_DELAY)
        extra = {"WWW-Authenticate": 'Bearer realm="zmsd"'} if status == 401 else {}
        self._answer(status, reason, extra)

    def _answer(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self._send_page(Page(status, "text/plain; charset=utf-8", text + "\n"), headers or {})

    def _send_page(self, page: Page, headers: dict[str, str] | None = None) -> None:
        body = page.body.encode()
        self.connection.settimeout(REQUEST_SECONDS)
        self.send_response(page.status)
        for name, value in {
            "Content-Type": page.type,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Pages are asked for every few seconds by monitors: at debug only, and without the query (it holds tokens)."""
        log.debug(kv("request", address=self.client_address[0], path=getattr(self, "path", "").partition("?")[0]))


def subscription(query: Mapping[str, Sequence[str]]) -> Subscription:
    """What a query asks for. Raises ValueError with what is wrong."""

    def one(name: str) -> str | None:
        found = query.get(name) or [""]
        return found[-1] or None

    app, shard = one("appID"), one("shardNum")
    if app is None or not app.replace("_", "").isalnum() or not app.isascii():
        raise ValueError("appID must be given, of letters, digits and _")
    if shard is None or not shard.isascii() or not shard.isdigit() or len(shard) > 9:
        raise ValueError("shardNum must be given, a number from 0")
    last, version = one("lastWatermark"), one("replicaVersion")
    for name, mark in (("lastWatermark", last), ("replicaVersion", version)):
        if mark is not None:
            try:
                position.parse(mark)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    return Subscription(app, int(shard), last, version)
