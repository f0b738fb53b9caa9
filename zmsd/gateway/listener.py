"""One thread that accepts connections, shakes hands, reads requests and sends answers, until a session takes over.

A connection costs a file descriptor and some kB here, not a thread, so idle ones are cheap. They are limited per
address and in total, apart from admitted sessions; for one more, the oldest that has not shown a token is closed.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread

from zmsd.gateway.connection import Connection
from zmsd.gateway.http import HEAD_END, REQUEST_BYTES
from zmsd.log import kv
from zmsd.retry import RetryLog

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
"""Seconds from accepting a connection until its TLS handshake is done and its request has come; and again for the
answer."""
LINGER_SECONDS = 1.0
"""Seconds that a client has to close after its answer. Closing first would discard an answer on its way to a client
that is still sending."""
MAX_CONNECTIONS = 512
"""Connections at once that have not been admitted as a session."""
MAX_CONNECTIONS_PER_ADDRESS = 128
"""Of them from one IPv4 address, or one /64 of IPv6."""
_ACCEPTS = 32
"""Connections accepted before those that have sent something are looked at: fewer than the limits, so that a flood does
not push out a client that sends its request at once."""
_TICK = 0.1
"""Seconds between looks at deadlines."""
_CHUNK = 4096
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """``thread`` runs the loop; ``post`` and ``stop`` may be called from any thread, the others from that thread."""

    def __init__(
        self,
        sock: socket.socket,
        tls: Callable[[], ssl.SSLContext | None],
        requested: Callable[[Connection, bytes], None],
        tick: Callable[[], None],
        on_thread_death: Callable[[str], None],
    ) -> None:
        """
        :param sock: bound and listening
        :param tls: the context for the next connection
        :param requested: called with a connection and the head of its request; it answers or releases
        :param tick: called several times a second
        :param died: called where the loop fails
        """
        self._sock = sock
        self._tls = tls
        self._requested = requested
        self._on_tick = tick
        self._on_thread_death = on_thread_death
        self._stopping = Event()
        self._connections: dict[Connection, None] = {}  # the oldest first
        self._networks: dict[str, dict[Connection, None]] = {}
        self._posted: deque[tuple[Connection, bytes]] = deque()
        self._paused = False
        self._trouble = RetryLog(log, "accepting a connection")
        self._wake_in, self._wake_out = socket.socketpair()
        for each in (sock, self._wake_in, self._wake_out):
            each.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_out, selectors.EVENT_READ, self._woken)
        self.thread = Thread(target=self._run, name="listener", daemon=True)

    def __len__(self) -> int:
        """Connections that have not been admitted. Thread-safe."""
        return len(self._connections)

    def post(self, connection: Connection, answer: bytes) -> None:
        """Have an answer sent. Thread-safe."""
        self._posted.append((connection, answer))
        self._wake()

    def stop(self) -> None:
        """End the loop and close what has not been admitted. Thread-safe."""
        self._stopping.set()
        self._wake()

    def answer(self, connection: Connection, data: bytes, delay: float = 0.0) -> None:
        """Send an answer, after ``delay`` seconds, and close."""
        if connection not in self._connections:
            return  # closed meanwhile
        now = time.monotonic()
        connection.answer = memoryview(data)
        connection.answer_at = now + delay
        connection.deadline = now + delay + REQUEST_SECONDS
        if delay:
            self._watch(connection, 0)
        else:
            self._send(connection)

    def release(self, connection: Connection) -> socket.socket:
        """Take a connection out of the loop; its socket, still without blocking."""
        self._watch(connection, 0)
        self._forget(connection)
        return connection.sock

    def _run(self) -> None:
        try:
            looked = 0.0
            while not self._stopping.is_set():
                for key, _ in self._selector.select(_TICK):
                    if isinstance(key.data, Connection):
                        self._guarded(key.data)
                    else:
                        key.data()
                if time.monotonic() - looked >= _TICK:
                    looked = time.monotonic()
                    self._look(looked)
                    self._on_tick()
        except Exception:
            log.exception("listener failed")
        finally:
            for connection in list(self._connections):
                self._close(connection)
            self._sock.close()
            if not self._stopping.is_set():
                self._on_thread_death("listener")

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            self._wake_out.recv(_CHUNK)
        while self._posted:
            self.answer(*self._posted.popleft())

    def _guarded(self, connection: Connection) -> None:
        """Whatever a client sends ends its own connection only."""
        if connection not in self._connections:
            return  # closed earlier in this round
        try:
            self._step(connection)
        except OSError as error:
            log.debug(kv("connection lost", address=connection.address, error=error))
            self._close(connection)
        except Exception:
            log.exception(kv("connection failed", address=connection.address))
            self._close(connection)

    def _step(self, connection: Connection) -> None:
        if not connection.shaken and not self._shake_hands(connection):
            return
        if connection.lingers:
            if not self._receive(connection):
                self._close(connection)
        elif connection.answer is not None:
            self._send(connection)
        else:
            self._read(connection)

    def _shake_hands(self, connection: Connection) -> bool:
        assert isinstance(connection.sock, ssl.SSLSocket)
        try:
            connection.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(connection, selectors.EVENT_READ)
            return False
        except ssl.SSLWantWriteError:
            self._watch(connection, selectors.EVENT_WRITE)
            return False
        connection.shaken = True
        self._watch(connection, selectors.EVENT_READ)
        return True

    def _receive(self, connection: Connection) -> bytes | None:
        """Bytes that have come; None where none have, b"" at the end. Raises OSError."""
        try:
            return connection.sock.recv(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def _read(self, connection: Connection) -> None:
        buffer = connection.buffer
        while True:
            data = self._receive(connection)
            if data is None:
                return
            if not data:
                self._close(connection)
                return
            searched = max(len(buffer) - len(HEAD_END), 0)
            buffer += data
            if not buffer[:1].isalpha():
                self._reset(connection)
                return
            end = buffer.find(HEAD_END, searched)
            if end >= 0 or len(buffer) > REQUEST_BYTES:
                break
        self._watch(connection, 0)
        head = bytes(buffer[:end]) if 0 <= end <= REQUEST_BYTES else b""
        connection.early = 0 <= end < len(buffer) - len(HEAD_END)
        connection.buffer = bytearray()
        self._requested(connection, head)

    def _send(self, connection: Connection) -> None:
        assert connection.answer is not None
        try:
            while connection.answer:
                connection.answer = connection.answer[connection.sock.send(connection.answer) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._watch(connection, selectors.EVENT_WRITE)
            return
        except ssl.SSLWantReadError:
            self._watch(connection, selectors.EVENT_READ)
            return
        except OSError as error:  # it has gone before its answer
            log.debug(kv("connection lost", address=connection.address, error=error))
            self._close(connection)
            return
        with suppress(OSError, ValueError):
            if isinstance(connection.sock, ssl.SSLSocket):
                connection.sock.unwrap()
        with suppress(OSError):
            socket.socket.shutdown(connection.sock, socket.SHUT_WR)
        connection.lingers = True
        connection.deadline = time.monotonic() + LINGER_SECONDS
        self._watch(connection, selectors.EVENT_READ)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._trouble.failed(error.strerror or error)
                    self._make_room(self._connections)
                    self._pause(True)
                    return
                continue  # that connection was reset before it was accepted
            try:
                self._add(sock, str(peer[0]))
            except Exception as error:  # such as MemoryError: it costs this connection, not the listener
                self._trouble.failed(error)
                sock.close()
            else:
                self._trouble.recovered()

    def _add(self, sock: socket.socket, address: str) -> None:
        context = self._tls()
        try:
            sock.setblocking(False)
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:  # gone already
            sock.close()
            return
        connection = Connection(sock, address, time.monotonic() + REQUEST_SECONDS, context is None)
        own = self._networks.setdefault(connection.network, {})
        if len(own) >= MAX_CONNECTIONS_PER_ADDRESS:
            self._make_room(own)
        elif len(self._connections) >= MAX_CONNECTIONS:
            self._make_room(self._connections)
        self._networks.setdefault(connection.network, {})[connection] = None
        self._connections[connection] = None
        self._watch(connection, selectors.EVENT_READ)

    def _make_room(self, connections: dict[Connection, None]) -> None:
        """Close the oldest of ``connections`` without a token, or the oldest of all."""
        if connections:
            oldest = next((each for each in connections if not each.trusted), next(iter(connections)))
            log.debug(kv("connection closed, too many", address=oldest.address))
            self._close(oldest)

    def _look(self, now: float) -> None:
        """Close what has not kept its deadline, and send what is due."""
        self._pause(False)
        for connection in list(self._connections):
            if now >= connection.deadline:
                self._close(connection)
            elif connection.answer and connection.answer_at and now >= connection.answer_at:
                connection.answer_at = 0.0
                self._send(connection)

    def _pause(self, paused: bool) -> None:
        """Stop accepting until the next look: a loop that cannot accept would spin."""
        if paused != self._paused:
            self._paused = paused
            if paused:
                self._selector.unregister(self._sock)
            else:
                self._selector.register(self._sock, selectors.EVENT_READ, self._accept)

    def _watch(self, connection: Connection, events: int) -> None:
        known = self._selector.get_map().get(connection.sock)
        if not events:
            if known is not None:
                self._selector.unregister(connection.sock)
        elif known is None:
            self._selector.register(connection.sock, events, connection)
        elif known.events != events:
            self._selector.modify(connection.sock, events, connection)

    def _reset(self, connection: Connection) -> None:
        """Reset a connection that does not speak HTTP. zero-cache 0.25 also takes its upstream for a Postgres: it sends
        a startup message at its start and is not ready until that has failed. Only a reset fails; after an ordinary
        close it tries again for ever."""
        log.debug(kv("connection reset, not HTTP", address=connection.address))
        with suppress(OSError):
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection in self._connections:
            self._watch(connection, 0)
            self._forget(connection)
            connection.closed = True
            connection.sock.close()

    def _forget(self, connection: Connection) -> None:
        del self._connections[connection]
        own = self._networks[connection.network]
        del own[connection]
        if not own:
            del self._networks[connection.network]

    def _wake(self) -> None:
        with suppress(BlockingIOError, OSError):
            self._wake_in.send(b"x")
