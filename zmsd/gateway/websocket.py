"""WebSocket connections (RFC 6455). The only module that uses simple_websocket.

simple_websocket sends pongs from its receive thread while another thread may be in the middle of a frame, and does not
check how much ``send`` has sent. So it gets a Wire instead of the socket, which sends complete frames, one at a time.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Iterator, Mapping
from threading import Event, Lock, Thread
from typing import Any

from simple_websocket import ConnectionClosed, Server
from simple_websocket import ConnectionError as HandshakeError
from wsproto.utilities import ProtocolError

from zmsd.errors import PeerGone, PeerProtocolError
from zmsd.gateway.tls import TlsSocket
from zmsd.log import kv, outside

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4096
"""Largest message from a client; those of zero-cache have less than 200 bytes."""
MAX_WAITING_BYTES = 64 << 10
"""Received bytes, with frame headers, that the session has not read yet, after which receiving stops (invariant 8)."""
_HANDSHAKE_HEADERS = ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version")
"""The headers that simple_websocket gets. It sees no offer of extensions, because permessage-deflate (RFC 7692) costs
zero-cache most of its throughput, and lets a client fill the memory with a small frame."""
MAX_REASON = 120
"""Bytes of a close reason; RFC 6455, 5.5 allows 123."""

GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
"""Close codes of RFC 6455, 7.4.1."""

UNACKNOWLEDGED_SECONDS = 15.0
"""Seconds without a TCP acknowledgement while data is in flight, after which the peer counts as unreachable."""
_TCP_INFO = struct.Struct(
    "=24xI28xI"
)  # struct tcp_info of linux/tcp.h: tcpi_unacked (segments), tcpi_last_ack_recv (ms)


def set_socket_options(sock: socket.socket | TlsSocket) -> None:
    """Send small writes at once, and let TCP end an idle connection after 19 s if its peer is unreachable.

    ``Wire.peer_unreachable`` finds the others. TCP_USER_TIMEOUT (tcp(7)) is not used: it overrides
    keepalive, and would end the connection of a peer that only stops reading.
    """
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


class Wire:
    """The socket given to simple_websocket. ``send`` and ``kill`` are thread-safe."""

    def __init__(self, sock: socket.socket | TlsSocket) -> None:
        self._sock = sock
        self._lock = Lock()
        self._has_room = Event()
        self._has_room.set()
        self._received = 0  # bytes since the last mark_read
        self.dead = False

    def send(self, data: bytes) -> int:
        """Send all bytes, never inside another frame. Return their number. Raises OSError."""
        with self._lock:
            self._sock.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        """Receive, but not more than MAX_WAITING_BYTES ahead of the session. Receive thread only."""
        while self._received >= MAX_WAITING_BYTES and not self.dead:
            self._has_room.clear()
            if self._received < MAX_WAITING_BYTES or self.dead:  # changed since the check above
                break
            self._has_room.wait()
        data = self._sock.recv(min(size, max(MAX_WAITING_BYTES - self._received, 1)))
        # Without a lock: if this overwrites a concurrent ``mark_read``, the next one comes within a second.
        self._received += len(data)
        return data

    def mark_read(self) -> None:
        """Allow further bytes: the session has read all messages. Session's thread only."""
        self._received = 0
        self._has_room.set()

    def peer_unreachable(self) -> bool:
        """Return whether the peer's host or the network is gone: data is in flight, and no acknowledgement comes.

        A peer that only stops reading has acknowledged all data that it had room for, so nothing is in flight to it.
        Thread-safe. Raises OSError.
        """
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        in_flight, silent_ms = _TCP_INFO.unpack(info)
        return bool(in_flight) and silent_ms > UNACKNOWLEDGED_SECONDS * 1000

    def close(self) -> None:
        """End both directions. simple_websocket's thread calls this at its end; the server closes the socket itself."""
        self.kill()

    def kill(self) -> None:
        """End both directions at once, so that a blocked sendall or recv returns. Does not wait for the lock.

        Thread-safe.
        """
        self.dead = True
        self._has_room.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


class Peer:
    """One accepted WebSocket. ``send``, ``received``, ``wait`` and ``close``: session's thread only; the rest is
    thread-safe."""

    def __init__(self, sock: socket.socket | TlsSocket, headers: Mapping[str, str], name: str) -> None:
        """Answer the handshake (RFC 6455, 4.2.2). Raises PeerProtocolError and PeerGone.

        :param headers: of the HTTP request, names in lower case
        :param name: name of the session, from which the receive thread gets its name
        """
        set_socket_options(sock)
        self._wire = Wire(sock)
        # The entries of a WSGI environment that simple_websocket reads.
        environ: dict[str, Any] = {
            f"HTTP_{key.upper().replace('-', '_')}": headers[key] for key in _HANDSHAKE_HEADERS if key in headers
        }
        environ.update({"werkzeug.socket": self._wire, "REQUEST_METHOD": "GET"})

        def thread(target: Any) -> Thread:
            return Thread(target=_guarded, args=(target, self._wire), name=f"{name}-rx", daemon=True)

        try:
            self._ws = Server(environ, max_message_size=MAX_MESSAGE_BYTES, receive_bytes=4096, thread_class=thread)
        except (ProtocolError, HandshakeError, KeyError, ValueError) as error:
            raise PeerProtocolError(f"not a WebSocket handshake: {error!r}") from error
        except OSError as error:
            raise PeerGone(str(error)) from error

    @property
    def gone(self) -> bool:
        """Return whether the connection has ended."""
        return self._wire.dead or not self._ws.connected

    def send(self, frames: bytes) -> None:
        """Send complete frames. Blocks while the peer does not read. Raises PeerGone."""
        if self.gone:
            raise PeerGone(self._why())
        try:
            self._wire.send(frames)
        except OSError as error:
            raise PeerGone(str(error)) from error

    def received(self) -> Iterator[str | bytes]:
        """Yield the messages that have arrived. Does not block.

        Raises PeerGone if the connection has ended and all messages were yielded, and PeerProtocolError for a message
        that is too long.
        """
        waiting: list[str | bytes] = self._ws.input_buffer
        try:
            while waiting:
                message = self._ws.receive(timeout=0)
                if message is None:
                    break
                # simple_websocket's own limit counts characters.
                if len(message) * 4 > MAX_MESSAGE_BYTES and len(_encoded(message)) > MAX_MESSAGE_BYTES:
                    raise PeerProtocolError(f"a message has more than {MAX_MESSAGE_BYTES} bytes")
                yield message
        except ConnectionClosed as error:
            raise PeerGone(self._why()) from error
        self._wire.mark_read()
        if self.gone:
            raise PeerGone(self._why())

    def wait(self, seconds: float) -> None:
        """Wait until a message arrives or the connection ends, or some seconds."""
        # The event may be set for a message that was read already: then the caller waits once more. A message that
        # arrives before ``clear`` is in the buffer, and the caller reads that next.
        if seconds and not self._ws.input_buffer and self._ws.event.wait(seconds):
            self._ws.event.clear()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and end the connection. Never raises; may be called twice."""
        text = reason.encode()[:MAX_REASON].decode(errors="ignore")
        with contextlib.suppress(ConnectionClosed, OSError, ProtocolError):
            self._ws.close(code, text)
        self.kill()

    def kill(self) -> None:
        """End the connection at once. Thread-safe."""
        self._wire.kill()

    def end_if_unreachable(self) -> None:
        """End the connection if the peer is unreachable. Call it every few seconds. Thread-safe."""
        with contextlib.suppress(OSError):  # ended meanwhile
            if self._wire.peer_unreachable():
                self._wire.kill()

    def _why(self) -> str:
        reason = self._ws.close_message
        return f"closed with {int(self._ws.close_reason)}" + (f": {outside(reason)}" if reason else "")


def _encoded(message: str | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.encode()


def _guarded(target: Any, wire: Wire) -> None:
    """Run a receive thread. Any error, also one that the library does not expect, ends this connection only."""
    try:
        target()
    except MemoryError:
        log.warning(kv("receive thread failed", error="out of memory"))
    except Exception:
        log.warning("receive thread failed", exc_info=True)
    finally:
        wire.kill()
