"""Listener: one thread that accepts connections, does TLS handshakes, reads requests and sends answers.

It serves a connection until a session takes over. A connection costs a file descriptor and some kB here, but no thread,
so idle connections are cheap. Their number is limited per network and in total, not counting admitted sessions
(``connection.Pool``). Above a limit, the oldest connection without a token is closed to make room.
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

from zmsd.gateway.connection import Connection, Pool
from zmsd.gateway.http import HEAD_END, REQUEST_BYTES
from zmsd.log import kv
from zmsd.retry import RetryLog

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
"""Deadline from accepting a connection to the complete TLS handshake and request; and once more for the answer."""
LINGER_SECONDS = 1.0
"""Time for a client to close after its answer. If the server closed first while the client still sends, TCP would reset
the connection and discard the answer (RFC 9112, 9.6)."""
_MAX_ACCEPTS = 32
"""Connections accepted in one go before received data is read: fewer than the limits, so that a flood does not push out
a client that sends its request at once."""
_TICK_SECONDS = 0.1
"""Seconds between checks of the deadlines."""
_CHUNK_BYTES = 4096
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """The listener thread's loop. ``post``, ``stop`` and ``len`` are thread-safe; the rest is for ``thread`` only."""

    def __init__(
        self,
        sock: socket.socket,
        tls: Callable[[], ssl.SSLContext | None],
        requested: Callable[[Connection, bytes], None],
        tick: Callable[[], None],
        on_thread_death: Callable[[str], None],
    ) -> None:
        """Prepare the loop; ``thread`` is not started.

        :param sock: the listening socket
        :param tls: returns the TLS context for the next connection; None for plain TCP
        :param requested: called with a connection and the request line and headers; must call ``answer``, ``release``
            or, later, ``post``
        :param tick: called several times a second
        :param on_thread_death: called with the thread's name if the loop fails
        """
        self._sock = sock
        self._tls = tls
        self._requested = requested
        self._on_tick = tick
        self._on_thread_death = on_thread_death
        self._stopping = Event()
        self._silent = Pool()
        self._heard = Pool()
        self._posted: deque[tuple[Connection, bytes]] = deque()
        self._paused = False
        self._accept_log = RetryLog(log, "accepting a connection")
        self._wake_in, self._wake_out = socket.socketpair()
        for each in (sock, self._wake_in, self._wake_out):
            each.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_out, selectors.EVENT_READ, self._woken)
        self.thread = Thread(target=self._run, name="listener", daemon=True)

    def __len__(self) -> int:
        """Return the number of connections that have not been admitted. Thread-safe."""
        return len(self._silent) + len(self._heard)

    def post(self, connection: Connection, answer: bytes) -> None:
        """Have the listener thread send an answer. Thread-safe."""
        self._posted.append((connection, answer))
        self._wake()

    def stop(self) -> None:
        """End the loop, which closes all connections that have not been admitted. Thread-safe."""
        self._stopping.set()
        self._wake()

    def answer(self, connection: Connection, data: bytes, delay: float = 0.0) -> None:
        """Send an answer and close the connection.

        :param data: the answer's bytes
        :param delay: seconds to wait before
        """
        if connection not in self._pool(connection):
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
        """Take a connection out of the loop, and return its socket, which is non-blocking."""
        self._watch(connection, 0)
        self._pool(connection).remove(connection)
        return connection.sock

    def _run(self) -> None:
        try:
            checked = 0.0
            while not self._stopping.is_set():
                for key, _ in self._selector.select(_TICK_SECONDS):
                    if isinstance(key.data, Connection):
                        self._guarded(key.data)
                    else:
                        key.data()
                if time.monotonic() - checked >= _TICK_SECONDS:
                    checked = time.monotonic()
                    self._check_deadlines(checked)
                    self._on_tick()
        except Exception:
            log.exception("listener failed")
        finally:
            for connection in (*self._silent, *self._heard):
                self._close(connection)
            self._sock.close()
            if not self._stopping.is_set():
                self._on_thread_death("listener")

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            self._wake_out.recv(_CHUNK_BYTES)
        while self._posted:
            self.answer(*self._posted.popleft())

    def _guarded(self, connection: Connection) -> None:
        """Advance a connection. An error, whatever the client sent, ends only this connection."""
        if connection not in self._pool(connection):
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
        if not connection.heard:
            self._silent.remove(connection)
            connection.heard = True
            self._put(connection)
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
        """Return the bytes that have arrived: None if none have, b"" if the client has closed. Raises OSError."""
        try:
            return connection.sock.recv(_CHUNK_BYTES)
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
        except OSError as error:  # the client closed before its answer
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
        for _ in range(_MAX_ACCEPTS):
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._accept_log.failed(error.strerror or error)
                    self._make_room(self._silent.oldest() or self._heard.oldest())
                    self._pause(True)
                    return
                continue  # the connection was reset before it was accepted
            try:
                self._add(sock, str(peer[0]))
            except Exception as error:  # such as MemoryError: drop this connection, and keep the listener
                self._accept_log.failed(error)
                sock.close()
            else:
                self._accept_log.recovered()

    def _add(self, sock: socket.socket, address: str) -> None:
        context = self._tls()
        try:
            sock.setblocking(False)
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:  # the client has already closed
            sock.close()
            return
        connection = Connection(sock, address, time.monotonic() + REQUEST_SECONDS, context is None)
        self._put(connection)
        self._watch(connection, selectors.EVENT_READ)

    def _pool(self, connection: Connection) -> Pool:
        return self._heard if connection.heard else self._silent

    def _put(self, connection: Connection) -> None:
        pool = self._pool(connection)
        self._make_room(pool.displaced_by(connection))
        pool.add(connection)

    def _make_room(self, displaced: Connection | None) -> None:
        if displaced is not None:
            log.debug(kv("connection closed, too many", address=displaced.address))
            self._close(displaced)

    def _check_deadlines(self, now: float) -> None:
        """Close connections whose deadline has passed, send delayed answers that are due, and accept again."""
        self._pause(False)
        for connection in (*self._silent, *self._heard):
            if now >= connection.deadline:
                self._close(connection)
            elif connection.answer and connection.answer_at and now >= connection.answer_at:
                connection.answer_at = 0.0
                self._send(connection)

    def _pause(self, paused: bool) -> None:
        """Stop accepting until the next check of the deadlines: a loop that cannot accept would spin."""
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
        """Reset a connection that does not speak HTTP.

        zero-cache 0.25 also sends a Postgres startup message to its upstream, and is not ready until that has failed.
        Only a reset counts as a failure; after an ordinary close it tries again without end.
        """
        log.debug(kv("connection reset, not HTTP", address=connection.address))
        with suppress(OSError):
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection in self._pool(connection):
            self._watch(connection, 0)
            self._pool(connection).remove(connection)
            connection.closed = True
            connection.sock.close()

    def _wake(self) -> None:
        with suppress(BlockingIOError, OSError):
            self._wake_in.send(b"x")
