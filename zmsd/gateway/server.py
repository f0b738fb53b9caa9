"""The threaded server: who may come in, and the registry of sessions."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from socketserver import TCPServer, ThreadingMixIn
from threading import Event, Lock, Thread, current_thread
from typing import Any

from zmsd.deadline import Deadline
from zmsd.gateway.http import REQUEST_SECONDS, Handler, Limits, Page
from zmsd.gateway.session import Session, Subscription
from zmsd.gateway.tls import TlsSocket
from zmsd.log import Repeated, kv
from zmsd.replication.hub import Hub

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
"""Connections at once, sessions and pages together."""


class Server(ThreadingMixIn, TCPServer):
    """``start`` and ``stop`` are for the main thread; each connection has a thread of its own."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        hub: Hub,
        pages: dict[str, Callable[[], Page]],
        limits: Limits,
        tls: ssl.SSLContext | None,
        died: Callable[[str], None],
    ) -> None:
        """Binds and listens. Raises OSError.

        :param pages: path -> what makes the page
        """
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Handler)
        self.hub = hub
        self.pages = pages
        self.limits = limits
        self.tls = tls
        self._died = died
        self.stopping = Event()
        self._lock = Lock()
        self._sessions: dict[int, Session] = {}
        self._threads: set[Thread] = set()
        self._looked = 0.0
        self._crowded = Repeated(log, "taking a connection")
        self._next = 1
        self._thread = Thread(target=self._listen, name="listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline: Deadline) -> None:
        """Stop listening; sessions end at a transaction's end, and at once when half of the time is over."""
        self.stopping.set()
        if self._thread.is_alive():
            self.shutdown()
        self.socket.close()
        for session in self.sessions():
            session.stop()
        self.hub.log.close()
        patience = Deadline(deadline.remaining() / 2)
        for thread in list(self._threads):
            thread.join(patience.remaining())
        for session in self.sessions():
            session.kill()
        for thread in list(self._threads):
            thread.join(deadline.remaining())

    def sessions(self) -> list[Session]:
        with self._lock:
            return list(self._sessions.values())

    def admit(self, address: str, wanted: Subscription) -> Session | str:
        """A new session in the registry, or why there is none."""
        limits = self.limits
        with self._lock:
            if self.stopping.is_set():
                return "zmsd stops"
            if len(self._sessions) >= limits.max_sessions:
                return f"server.max_sessions ({limits.max_sessions}) are connected"
            if sum(one.address == address for one in self._sessions.values()) >= limits.max_sessions_per_address:
                return f"server.max_sessions_per_address ({limits.max_sessions_per_address}) are connected from there"
            session = Session(self._next, address, wanted, self.hub)
            self._sessions[session.number] = session
            self._next += 1
            return session

    def leave(self, session: Session) -> None:
        with self._lock:
            self._sessions.pop(session.number, None)

    def process_request(self, request: Any, client_address: Any) -> None:
        """As ThreadingMixIn, but the thread is registered before it starts, and joined under a deadline."""
        if len(self._threads) >= MAX_CONNECTIONS:
            self._crowded.failed(f"{MAX_CONNECTIONS} are open", address=client_address[0])
            self.shutdown_request(request)
            return
        if len(self._threads) < MAX_CONNECTIONS // 2:
            self._crowded.recovered()
        thread = Thread(target=self._run, args=(request, client_address), name="connection", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads
            self._threads.discard(thread)
            raise

    def service_actions(self) -> None:
        """What the listener does between connections, five times a second."""
        if time.monotonic() - self._looked >= 2.0:
            self._looked = time.monotonic()
            for session in self.sessions():
                session.end_if_cut_off()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception(kv("connection failed", address=client_address[0]))

    def _run(self, request: Any, client_address: Any) -> None:
        thread = current_thread()
        try:
            if self.tls is not None:
                request = TlsSocket(self.tls, request, REQUEST_SECONDS)
            self.process_request_thread(request, client_address)
        except OSError as error:  # the TLS handshake
            log.debug(kv("connection lost", address=client_address[0], error=error))
            self.shutdown_request(request)
        finally:
            self._threads.discard(thread)

    def _listen(self) -> None:
        try:
            self.serve_forever(poll_interval=0.2)
        except Exception:
            log.exception("listener failed")
        finally:
            if not self.stopping.is_set():
                self._died("listener")
