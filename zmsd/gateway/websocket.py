"""The socket under a WebSocket, and the only user of simple_websocket.

simple_websocket writes a pong from its receive thread while another thread may be in the middle of a frame, and ignores
how much ``send`` has sent. It is given a Wire instead of the socket, whose ``send`` is whole frames, one writer at a
time.
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
"""Bytes that a message from a client may have; zero-cache's are below 200."""
MAX_WAITING_BYTES = 64 << 10
"""Bytes that may be received and not looked at yet, frame headers included, before nothing more is read."""
_HANDSHAKE_HEADERS = ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version")
"""What simple_websocket gets to see of a request. No extensions: deflate costs zero-cache 7/8 of its rows/s, and lets a
client fill the memory (a frame of 60 kB can inflate to 60 MB)."""
MAX_REASON = 120
"""Bytes of a close reason (RFC 6455 allows 123)."""

GOING_AWAY = 1001
PROTOCOL_ERROR = 1002

SILENCE = 15.0
"""Seconds without a word from the peer's machine while data is on its way to it."""
_TCP_INFO = struct.Struct("=24xI28xI")  # of Linux: segments on their way, ms since the last confirmation


def tune(sock: socket.socket | TlsSocket) -> None:
    """No delay for small writes; an idle connection whose peer or network is gone ends after 19 s (``cut_off`` is for
    the others).

    No TCP_USER_TIMEOUT: it would set keepalive aside, and end the connection of a peer that only stops reading.
    """
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


class Wire:
    """The socket given to simple_websocket."""

    def __init__(self, sock: socket.socket | TlsSocket) -> None:
        self._sock = sock
        self._lock = Lock()
        self._room = Event()
        self._room.set()
        self._received = 0  # bytes since the session has looked
        self.dead = False

    def send(self, data: bytes) -> int:
        """All of it, never into the middle of another frame. Raises OSError."""
        with self._lock:
            self._sock.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        """Receive, but not more than MAX_WAITING_BYTES ahead of the session. Receive thread only."""
        while self._received >= MAX_WAITING_BYTES and not self.dead:
            self._room.clear()
            if self._received < MAX_WAITING_BYTES or self.dead:  # changed since the look at it above
                break
            self._room.wait()
        data = self._sock.recv(min(size, max(MAX_WAITING_BYTES - self._received, 1)))
        # Without a lock: where this overwrites a ``taken`` of the same moment, the next one comes within a second.
        self._received += len(data)
        return data

    def taken(self) -> None:
        """The session has taken the messages that were waiting. Session's thread."""
        self._received = 0
        self._room.set()

    def cut_off(self) -> bool:
        """Whether the peer's machine or the network is gone: data is on its way, and nothing confirms it. To a peer
        that only stops reading nothing is on its way: what it had room for it has confirmed."""
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        on_its_way, silent_ms = _TCP_INFO.unpack(info)
        return bool(on_its_way) and silent_ms > SILENCE * 1000

    def close(self) -> None:
        """What simple_websocket's thread calls at its end; the socket itself is closed by the server."""
        self.kill()

    def kill(self) -> None:
        """End both directions at once: a blocked sendall or recv returns. Does not wait for the lock; any thread."""
        self.dead = True
        self._room.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


class Peer:
    """One accepted WebSocket. ``send``, ``received`` and ``close`` are for the session's thread, the others for any."""

    def __init__(self, sock: socket.socket | TlsSocket, headers: Mapping[str, str], name: str) -> None:
        """Answer the handshake. Raises PeerProtocolError and PeerGone.

        :param headers: of the HTTP request, names in lower case
        :param name: of the session; the receive thread is called after it
        """
        tune(sock)
        self._wire = Wire(sock)
        # What simple_websocket reads of a WSGI environment.
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
        return self._wire.dead or not self._ws.connected

    def send(self, frames: bytes) -> None:
        """Whole frames. Blocks while the peer does not read; raises PeerGone."""
        if self.gone:
            raise PeerGone(self._why())
        try:
            self._wire.send(frames)
        except OSError as error:
            raise PeerGone(str(error)) from error

    def received(self) -> Iterator[str | bytes]:
        """Yield the messages that have come meanwhile. Raises PeerGone when the peer is gone and all were taken, and
        PeerProtocolError for a message that is too long."""
        waiting: list[str | bytes] = self._ws.input_buffer
        try:
            while waiting:
                message = self._ws.receive(timeout=0)
                if message is None:
                    break
                # simple_websocket counts characters.
                if len(message) * 4 > MAX_MESSAGE_BYTES and len(_encoded(message)) > MAX_MESSAGE_BYTES:
                    raise PeerProtocolError(f"a message has more than {MAX_MESSAGE_BYTES} bytes")
                yield message
        except ConnectionClosed as error:
            raise PeerGone(self._why()) from error
        self._wire.taken()
        if self.gone:
            raise PeerGone(self._why())

    def close(self, code: int, reason: str) -> None:
        """Say why and end it. Never raises, may be called twice."""
        text = reason.encode()[:MAX_REASON].decode(errors="ignore")
        with contextlib.suppress(ConnectionClosed, OSError, ProtocolError):
            self._ws.close(code, text)
        self.kill()

    def kill(self) -> None:
        self._wire.kill()

    def end_if_cut_off(self) -> None:
        """Any thread; now and then."""
        with contextlib.suppress(OSError):  # ended meanwhile
            if self._wire.cut_off():
                self._wire.kill()

    def _why(self) -> str:
        reason = self._ws.close_message
        return f"closed with {int(self._ws.close_reason)}" + (f": {outside(reason)}" if reason else "")


def _encoded(message: str | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.encode()


def _guarded(target: Any, wire: Wire) -> None:
    """Whatever a peer sends ends its own connection only, also where a library has not thought of it."""
    try:
        target()
    except MemoryError:
        log.warning(kv("receive thread failed", error="out of memory"))
    except Exception:
        log.warning("receive thread failed", exc_info=True)
    finally:
        wire.kill()
