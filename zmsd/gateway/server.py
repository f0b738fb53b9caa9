"""Server: route each request to a page or to a new session, and start and stop their threads."""

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
    Reader,
    Request,
    accepted_token,
    check_handshake,
    check_origin,
    parse,
    prefers_html,
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
"""Delay before a refusal is answered, because zero-cache reconnects after 30 ms without a backoff
(``packages/zero-cache/src/services/change-source/custom/change-source.ts``)."""
PAGE_THREADS = 2
"""Threads that make pages, so that a slow page does not delay other connections."""
PUBLIC = ("/", "/health", "/healthz", "/readyz")
"""Pages that need no token. They show details only to a request with a token."""
_BACKLOG = 1024
"""Connections that the kernel queues before they are accepted."""
_REACHABILITY_INTERVAL_SECONDS = 2.0
"""Seconds between checks for sessions whose host is unreachable."""

PageMaker = Callable[[Reader], Page]
"""Make a page for a reader."""


class Server:
    """The TCP server. ``start``, ``stop`` and ``apply`` are for the main thread; each session has its own thread."""

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

        :param address: IP address and port; port 0 takes a free one
        :param registry: the sessions, and the limits that admit them
        :param pages: the function that makes each page, by path
        :param tls: the certificate's context; None for plain TCP
        :param on_thread_death: called with the name of a thread that has died unexpectedly
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
        self._reachability_checked = 0.0  # monotonic seconds
        self._refusals = Refusals()
        self._requested_pages: SimpleQueue[tuple[Connection, Request, bool] | None] = SimpleQueue()
        self._makers = [
            Thread(target=self._make_pages, name=f"pages-{n + 1}", daemon=True) for n in range(PAGE_THREADS)
        ]
        self.listener = Listener(self._socket, lambda: self.tls, self._requested, self._tick, on_thread_death)

    def start(self) -> None:
        """Start the listener and the page threads. Main thread only."""
        for thread in (*self._makers, self.listener.thread):
            thread.start()

    def stop(self, deadline: Deadline) -> None:
        """Stop the server within ``deadline``. Main thread only; a second call does nothing more.

        Sessions end after a complete transaction, or at once when half of the remaining time is over.
        """
        # 1. Admit no further session: one that began during the next steps would not be stopped by them.
        self.stopping.set()
        self.registry.close()
        # 2. Stop the listener, which closes its connections, and close the socket, so that another zmsd can bind it.
        self.listener.stop()
        if self.listener.thread.is_alive():
            self.listener.thread.join(deadline.remaining())
        self._socket.close()
        # 3. End the page threads after the requests that are queued. Nothing waits for them.
        for _ in self._makers:
            self._requested_pages.put(None)
        # 4. Ask each session to end after the transaction that it is sending.
        for session in self.registry.sessions():
            session.stop()
        # 5. Close the change log after that: it wakes the sessions that wait for changes, and they see the request.
        self.hub.log.close()
        # 6. Wait for the sessions, but keep half of the time for those whose client does not read.
        patience = Deadline(deadline.remaining() / 2)
        for thread in list(self._threads):
            thread.join(patience.remaining())
        # 7. Shut down the sockets of the rest, which ends a blocked send, and wait for their threads.
        for session in self.registry.sessions():
            session.kill()
        for thread in list(self._threads):
            thread.join(deadline.remaining())

    def apply(self, limits: Limits, tls: ssl.SSLContext | None) -> None:
        """Apply reloaded settings. Main thread only.

        Sessions whose token is not among ``limits.tokens`` any more end at once. Later connections use ``tls``.
        """
        self.tls = tls
        for session in self.registry.apply(limits):
            log.warning(kv("closing session, its token was removed", session=session.number, address=session.address))
            session.kill()

    def _requested(self, connection: Connection, head: bytes) -> None:
        """Route a request, and answer a refused one. Listener thread only.

        :param head: the request line and headers; empty if they were too large
        """
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
            # A wrong path, from a browser or a tool, needs neither a delay nor a log line.
            harmless = error.status in (404, 405, 426) and not websocket
            if not harmless:
                self._refuse(error.kind, connection.address, error.status, error.reason)
            self.listener.answer(connection, render(page, with_body), 0.0 if harmless else REFUSAL_DELAY_SECONDS)

    def _route(self, connection: Connection, request: Request) -> None:
        """Start a session for the stream's path, or enqueue the page. Raises RequestRefused. Listener thread only."""
        limits, path = self.registry.limits, request.path
        stream = path == protocol.PATH
        check_origin(request, limits, page=not stream)
        token = accepted_token(request, limits.tokens)
        allowed = not limits.tokens or token is not None
        connection.trusted = token is not None
        if request.wants_websocket and not stream:  # logged: zero-cache shows its operator only the status of a refusal
            raise RequestRefused(404, "wrong path", f"no WebSocket at {outside(path)}: use {protocol.PATH}")
        if not stream and path not in self.pages:
            known = " ".join(sorted([protocol.PATH, *self.pages]))
            raise RequestRefused(404, "wrong path", f"no page at {outside(path)}; the paths are: {known}")
        if request.method not in ("GET", "HEAD"):
            raise RequestRefused(405, "wrong method", "only GET and HEAD are supported", {"Allow": "GET, HEAD"})
        if not allowed and path not in PUBLIC:
            hint = "wrong or missing token: send it as ?token=…, as Basic password or as Bearer"
            raise RequestRefused(401, "token refused", hint, {"WWW-Authenticate": 'Bearer realm="zmsd"'})
        if stream:
            self._admit(connection, request, token)
        else:
            self._requested_pages.put((connection, request, allowed))

    def _admit(self, connection: Connection, request: Request, token: str | None) -> None:
        """Start a session in a thread of its own. Raises RequestRefused. Listener thread only."""
        check_handshake(request)
        if connection.early:
            raise RequestRefused(400, "not a handshake", "the client sent data before the handshake was answered")
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
        except RuntimeError as error:  # the system has no more threads
            self._threads.discard(thread)
            self.registry.remove(session)
            sock.close()
            self._refuse("no thread", connection.address, 503, f"no thread for a session: {error}")

    def _refuse(self, kind: str, address: str, status: int, reason: str) -> None:
        """Count and log a refusal. Listener thread."""
        self.hub.counters.refused[kind] += 1
        self._refusals.refused(kind, address, status, reason)

    def _serve(self, session: Session, sock: socket.socket, headers: Mapping[str, str]) -> None:
        """Run a session. Session's thread only."""
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
        """Make the requested pages one by one. Page threads only."""
        while (requested := self._requested_pages.get()) is not None:
            connection, request, allowed = requested
            if connection.closed:  # closed to make room; otherwise a flood of requests would fill the queue
                continue
            try:
                page = self.pages[request.path](Reader(allowed, prefers_html(request)))
            except Exception:
                log.exception(kv("page failed", path=request.path))
                page = text_page(500, "the page failed: see the log of zmsd")
            self.listener.post(connection, render(page, request.method != "HEAD"))

    def _tick(self) -> None:
        """Log counts of refusals, and end unreachable sessions. Listener thread only, several times a second."""
        self._refusals.flush()
        if time.monotonic() - self._reachability_checked >= _REACHABILITY_INTERVAL_SECONDS:
            self._reachability_checked = time.monotonic()
            for session in self.registry.sessions():
                session.end_if_unreachable()
