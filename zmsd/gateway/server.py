"""The server: routes of requests, and the registry of sessions."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Event, Thread, current_thread

from zmsd.deadline import Deadline
from zmsd.errors import PeerError, PeerProtocolError, RequestRefused
from zmsd.gateway.connection import Connection
from zmsd.gateway.http import (
    REQUEST_BYTES,
    Limits,
    Page,
    Request,
    accepted_token,
    check_handshake,
    check_origin,
    parse,
    render,
    text_page,
)
from zmsd.gateway.listener import Listener
from zmsd.gateway.refusals import Refusals
from zmsd.gateway.registry import SessionRegistry
from zmsd.gateway.session import Session
from zmsd.gateway.subscription import parse_subscription
from zmsd.gateway.tls import TlsSocket
from zmsd.gateway.websocket import Peer
from zmsd.log import kv, outside
from zmsd.replication.hub import Hub
from zmsd.zero import protocol

log = logging.getLogger(__name__)

REFUSAL_DELAY_SECONDS = 1.0
"""Before a refusal is answered: zero-cache tries again after 30 ms, without any backoff."""
PAGE_THREADS = 2
"""Threads that make pages, so that a page that takes long does not hold up connections."""
PUBLIC = ("/", "/health", "/healthz", "/readyz")
"""Pages that need no token, and show details only to who has one."""
_BACKLOG = 1024
_REACHABILITY_INTERVAL_SECONDS = 2.0

PageMaker = Callable[[bool], Page]
"""Makes a page; the argument is whether the reader may see tables, hosts and reasons."""


class Server:
    """``start``, ``stop`` and ``apply`` are for the main thread; each session has a thread of its own."""

    def __init__(
        self,
        address: tuple[str, int],
        hub: Hub,
        registry: SessionRegistry,
        pages: Mapping[str, PageMaker],
        tls: ssl.SSLContext | None,
        on_thread_death: Callable[[str], None],
    ) -> None:
        """Bind and listen. Raises OSError.

        :param registry: holds the sessions, and the limits that admit them
        :param pages: path -> what makes the page
        """
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self.server_address: tuple[str, int] = self._socket.getsockname()[:2]
        self.hub = hub
        self.pages = pages
        self.registry = registry
        self.tls = tls
        self.stopping = Event()
        self._threads: set[Thread] = set()
        self._looked = 0.0
        self._refusals = Refusals()
        self._requested_pages: SimpleQueue[tuple[Connection, Request, bool] | None] = SimpleQueue()
        self._makers = [
            Thread(target=self._make_pages, name=f"pages-{n + 1}", daemon=True) for n in range(PAGE_THREADS)
        ]
        self.listener = Listener(self._socket, lambda: self.tls, self._requested, self._tick, on_thread_death)

    def start(self) -> None:
        """Start the threads that listen and make pages. Main thread only."""
        for thread in (*self._makers, self.listener.thread):
            thread.start()

    def stop(self, deadline: Deadline) -> None:
        """Stop listening; sessions end at a transaction's end, and at once when half of the time is over."""
        self.stopping.set()
        self.registry.close()
        self.listener.stop()
        if self.listener.thread.is_alive():
            self.listener.thread.join(deadline.remaining())
        self._socket.close()
        for _ in self._makers:
            self._requested_pages.put(None)
        for session in self.registry.sessions():
            session.stop()
        self.hub.log.close()
        patience = Deadline(deadline.remaining() / 2)
        for thread in list(self._threads):
            thread.join(patience.remaining())
        for session in self.registry.sessions():
            session.kill()
        for thread in list(self._threads):
            thread.join(deadline.remaining())

    def apply(self, limits: Limits, tls: ssl.SSLContext | None) -> None:
        """Take reloaded settings: sessions whose token is not among ``limits.tokens`` any more end at once."""
        self.tls = tls
        for session in self.registry.apply(limits):
            log.warning(kv("closing session, its token was removed", session=session.number, address=session.address))
            session.kill()

    def _requested(self, connection: Connection, head: bytes) -> None:
        """Answer a request, or make a session of it. Listener thread."""
        with_body, websocket = not head.startswith(b"HEAD "), False
        try:
            if not head:
                raise RequestRefused(431, "request too large", f"a request may have {REQUEST_BYTES} bytes")
            request = parse(head)
            websocket = request.wants_websocket
            log.debug(kv("request", address=connection.address, path=request.path))  # its query may hold a token
            self._route(connection, request)
        except RequestRefused as error:
            page = text_page(error.status, error.reason, error.headers)
            # A browser's or a tool's wrong path costs nothing and is not worth a line.
            harmless = error.status in (404, 405, 426) and not websocket
            if not harmless:
                self._refusals.refused(error.kind, connection.address, error.status, error.reason)
            self.listener.answer(connection, render(page, with_body), 0.0 if harmless else REFUSAL_DELAY_SECONDS)

    def _route(self, connection: Connection, request: Request) -> None:
        """Raises RequestRefused."""
        limits, path = self.registry.limits, request.path
        stream = path == protocol.PATH
        check_origin(request, limits, page=not stream)
        token = accepted_token(request, limits.tokens)
        allowed = not limits.tokens or token is not None
        connection.trusted = token is not None
        if request.wants_websocket and not stream:  # zero-cache shows its operator only the status of a refusal
            raise RequestRefused(404, "wrong path", f"no WebSocket at {outside(path)}: it is at {protocol.PATH}")
        if not stream and path not in self.pages:
            known = " ".join(sorted([protocol.PATH, *self.pages]))
            raise RequestRefused(404, "wrong path", f"nothing at {outside(path)}; there is: {known}")
        if request.method not in ("GET", "HEAD"):
            raise RequestRefused(405, "wrong method", "only GET and HEAD are known", {"Allow": "GET, HEAD"})
        if not allowed and path not in PUBLIC:
            hint = "wrong or missing token: give it as ?token=…, as Basic password or as Bearer"
            raise RequestRefused(401, "token refused", hint, {"WWW-Authenticate": 'Bearer realm="zmsd"'})
        if stream:
            self._admit(connection, request, token)
        else:
            self._requested_pages.put((connection, request, allowed))

    def _admit(self, connection: Connection, request: Request, token: str | None) -> None:
        """Start a session. Raises RequestRefused."""
        check_handshake(request)
        if connection.early:
            raise RequestRefused(400, "not a handshake", "data came before the handshake was answered")
        try:
            subscription = parse_subscription(request.query)
        except ValueError as error:
            raise RequestRefused(400, "bad query", outside(error)) from error
        address = connection.address
        session = self.registry.admit(address, token, lambda number: Session(number, address, subscription, self.hub))
        sock = self.listener.release(connection)
        thread = Thread(
            target=self._serve, args=(session, sock, request.headers), name=f"session-{session.number}", daemon=True
        )
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads
            self._threads.discard(thread)
            self.registry.remove(session)
            sock.close()
            self._refusals.refused("no thread", connection.address, 503, f"no thread for a session: {error}")

    def _serve(self, session: Session, sock: socket.socket, headers: Mapping[str, str]) -> None:
        """The session's thread."""
        wire = TlsSocket(sock) if isinstance(sock, ssl.SSLSocket) else sock
        try:
            session.run(Peer(wire, headers, f"session-{session.number}"))
        except PeerProtocolError as error:
            log.warning(kv("handshake failed", address=session.address, error=error))
        except PeerError as error:
            log.debug(kv("connection lost", address=session.address, error=error))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "start new thread" not in str(error):
                log.exception(kv("session failed", session=session.number))
            else:
                log.error(kv("session failed, out of resources", session=session.number, error=error or "memory"))
                self.stopping.wait(REFUSAL_DELAY_SECONDS)
        except Exception:
            log.exception(kv("session failed", session=session.number))
        finally:
            self.registry.remove(session)
            wire.close()
            self._threads.discard(current_thread())

    def _make_pages(self) -> None:
        """A page thread."""
        while (requested := self._requested_pages.get()) is not None:
            connection, request, allowed = requested
            if connection.closed:  # pushed out by a flood, which would fill the queue otherwise
                continue
            try:
                page = self.pages[request.path](allowed)
            except Exception:
                log.exception(kv("page failed", path=request.path))
                page = text_page(500, "this page could not be made, the log of zmsd says why")
            self.listener.post(connection, render(page, request.method != "HEAD"))

    def _tick(self) -> None:
        """Several times a second. Listener thread."""
        self._refusals.flush()
        if time.monotonic() - self._looked >= _REACHABILITY_INTERVAL_SECONDS:
            self._looked = time.monotonic()
            for session in self.registry.sessions():
                session.end_if_unreachable()
