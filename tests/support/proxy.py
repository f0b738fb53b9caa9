"""A TCP proxy that behaves like a bad network: it resets, delays, drops silently, or stops in mid-reply."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

from tests.support.ports import free_port

_CHUNK = 1 << 16
_PASSED_OF_STALLED = 120
"""Bytes of a stalled reply that arrive."""


class Proxy:
    """Forwards ``port`` of 127.0.0.1 to ``target``, another port there, in one thread. A setting holds for existing and
    future connections."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.connections = 0  # accepted
        self.delay = 0.0  # seconds by which each piece is delayed, in both directions
        self.silent = False
        """Bytes vanish, in both directions; new connections are accepted and hear nothing, old ones stay as they are.
        Afterwards those from which something vanished are reset."""
        self.stalled = 0
        """Connections that ``stall_reply_to`` has stalled."""
        self._stall: Callable[[bytes], bool] | None = None
        self._links: list[_Link] = []
        self._lock = threading.Lock()
        self._closing = False
        self.port = free_port()
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._listener.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self._closing = True
        self._thread.join(10)
        self.reset()
        assert self._listener is not None
        self._listener.close()

    def reset(self) -> int:
        """Reset all connections on both sides, and return their number."""
        with self._lock:
            for link in self._links:
                link.abort()
            count, self._links = len(self._links), []
        return count

    def stall_reply_to(self, request: Callable[[bytes], bool]) -> None:
        """Pass 120 bytes of the reply to the next matching request, and then nothing more on its connection.

        The connection stays open, and all other connections work.

        :param request: whether a request, as its bytes, is to be chosen
        """
        self._stall = request

    def _chosen(self, request: bytes) -> bool:
        if self._stall is None or not self._stall(request):
            return False
        self._stall = None
        self.stalled += 1
        return True

    def _run(self) -> None:
        """Poll a hundred times a second and whenever data arrives, which is simple and fast enough for tests."""
        while not self._closing:
            self._accept()
            with self._lock:
                links = list(self._links)
            with selectors.DefaultSelector() as selector:
                assert self._listener is not None
                selector.register(self._listener, selectors.EVENT_READ)
                for link in links:
                    link.register(selector)
                selector.select(0.01)
            for link in links:
                link.pump(self.delay, self.silent, self._chosen)
            with self._lock:
                for link in [link for link in self._links if link.over]:
                    link.close()
                    self._links.remove(link)

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            client, _ = self._listener.accept()
            self.connections += 1
            try:
                server = self._connect()
            except OSError:
                client.close()
                return
            with self._lock:
                self._links.append(_Link(client, server))

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.target), timeout=1)


class Balancer(Proxy):
    """Forwards to one of its targets until that one refuses, and then to the next, as a load balancer does."""

    def __init__(self, *targets: int) -> None:
        super().__init__(targets[0])
        self.targets = targets

    def _connect(self) -> socket.socket:
        try:
            return super()._connect()
        except OSError:
            self.target = self.targets[(self.targets.index(self.target) + 1) % len(self.targets)]
            return super()._connect()


class _Link:
    """One connection through the proxy: two sockets, and the data on the way between them."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.over = False
        self._lanes = [_Lane(client, server), _Lane(server, client)]
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def register(self, selector: selectors.BaseSelector) -> None:
        for lane, back in (self._lanes, self._lanes[::-1]):
            events = selectors.EVENT_READ if lane.wants else 0
            events |= selectors.EVENT_WRITE if back.due() else 0
            if events:
                with contextlib.suppress(OSError, ValueError, KeyError):  # closed by reset() meanwhile
                    selector.register(lane.source, events)

    def pump(self, delay: float, silent: bool, stalls: Callable[[bytes], bool]) -> None:
        request, reply = self._lanes
        try:
            data = request.pump(delay, silent)
            if data and reply.left is None and stalls(data):
                reply.left = _PASSED_OF_STALLED
            reply.pump(delay, silent)
        except (OSError, ValueError):
            self.over = True
        if silent:
            return
        if any(lane.torn for lane in self._lanes):
            self.abort()
        if any(lane.ended and not lane.waiting for lane in self._lanes):
            self.over = True

    def abort(self) -> None:
        self.over = True
        for lane in self._lanes:
            with contextlib.suppress(OSError):
                lane.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        for lane in self._lanes:
            lane.source.close()


class _Lane:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.ended = False
        self.torn = False  # something vanished
        self.left: int | None = None  # bytes that are still forwarded; None: all
        self.waiting: list[tuple[float, bytes]] = []  # (monotonic time at which the bytes are due, bytes)

    @property
    def wants(self) -> bool:
        """Return whether to read more. Little is buffered, so a slow reader slows the writer."""
        return not self.ended and len(self.waiting) < 16

    def due(self) -> bool:
        return bool(self.waiting) and self.waiting[0][0] <= time.monotonic()

    def pump(self, delay: float, silent: bool) -> bytes:
        """Move the data that is due, and return the bytes that were read."""
        data = b""
        if self.wants:
            with contextlib.suppress(BlockingIOError):
                data = self.source.recv(_CHUNK)
                self.ended = not data
                passed = data
                if self.left is not None:
                    passed = data[: self.left]
                    self.left -= len(passed)
                if passed:
                    self.waiting.append((time.monotonic() + delay, passed))
        if silent:
            self.torn |= self.ended or bool(self.waiting)
            self.waiting.clear()
        while self.due():
            when, piece = self.waiting[0]
            try:
                sent = self.sink.send(piece)
            except BlockingIOError:
                break
            if sent < len(piece):
                self.waiting[0] = (when, piece[sent:])
                break
            del self.waiting[0]
        return data
