"""TLS under a connection: the context of a certificate, and a socket that two threads may use at once."""

from __future__ import annotations

import re
import select
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from zmsd.deadline import Deadline
from zmsd.errors import ZmsdError

T = TypeVar("T")

_CHUNK = 1 << 16
SOON_SECONDS = 30 * 24 * 3600
"""So long before the end of its certificate zmsd warns."""


def context(cert: Path, key: Path) -> ssl.SSLContext:
    """For a server with this certificate (and the chain behind it). Raises ZmsdError."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # An empty password, so that OpenSSL refuses an encrypted key instead of asking the terminal for one.
        made.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        text = re.sub(r" \(_ssl\.c:\d+\)$", "", str(reason))
        raise ZmsdError(
            f"server.tls: {cert} and {key} are not a certificate and its key, in PEM without a password: {text}"
        ) from error
    return made


def expiry(cert: Path) -> int | None:
    """Return when the first certificate of a file ends, in seconds since the epoch; None where that cannot be read.

    The ssl module gives it for a peer's certificate only. It is notAfter of RFC 5280, section 4.1.
    """
    try:
        found = re.search(
            r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", cert.read_text("latin-1"), re.DOTALL
        )
        der = ssl.PEM_cert_to_DER_cert(found[0]) if found else b""
        at, _ = _der(der, _der(der, 0)[0])  # in the certificate the part that is signed, in that
        if der[at] == 0xA0:  # the version
            _, at = _der(der, at)
        for _ in ("serial number", "signature", "issuer"):
            _, at = _der(der, at)
        _, at = _der(der, _der(der, at)[0])  # in the validity after notBefore
        start, end = _der(der, at)
        form = "%y%m%d%H%M%SZ" if der[at] == 0x17 else "%Y%m%d%H%M%SZ"
        return int(datetime.strptime(der[start:end].decode(), form).replace(tzinfo=UTC).timestamp())
    except (OSError, ValueError, IndexError):
        return None


def expiry_warning(cert: Path, now: float) -> str | None:
    """Return one line about a certificate that has ended or ends within SOON_SECONDS; None for any other."""
    ends = expiry(cert)
    if ends is None or ends - now > SOON_SECONDS:
        return None
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(ends))
    verb = "ended" if ends <= now else "ends"
    return f"server.tls: the certificate {cert} {verb} at {when}: renew it and reload zmsd"


def _der(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of a DER element begins and ends. Raises IndexError beyond the end."""
    size, start = der[at + 1], at + 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[at + 2 : start], "big")
    return start, start + size


class TlsSocket:
    """A connection after its handshake: as much of a socket as the gateway uses.

    A session is read by one thread and written by another, and OpenSSL takes one at a time. So every call of it is
    made under a lock and does not block; the waiting is done outside.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        """``sock``: after its handshake, not blocking."""
        self._tls = sock
        self._seconds: float | None = None
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def settimeout(self, seconds: float | None) -> None:
        """Set the deadline of later calls, in seconds; None for none."""
        self._seconds = seconds

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes, b"" at the end. Raises TimeoutError and OSError."""
        return self._patiently(lambda: self._tls.recv(size), self._deadline())

    def recv_into(self, buffer: Any) -> int:
        """Read into a buffer, and return how many bytes. Raises TimeoutError and OSError."""
        return self._patiently(lambda: self._tls.recv_into(buffer), self._deadline())

    def sendall(self, data: bytes) -> None:
        """Send all bytes. Raises TimeoutError and OSError."""
        deadline, rest = self._deadline(), memoryview(data)
        while rest:
            rest = rest[self._patiently(partial(self._tls.send, rest[:_CHUNK]), deadline) :]

    def shutdown(self, how: int) -> None:
        """Of the TCP connection, at once: SSLSocket's own would have a reader that still waits take the rest as plain
        text."""
        socket.socket.shutdown(self._tls, how)

    def close(self) -> None:
        """Close the socket. Thread-safe."""
        with self._lock:  # never under a call: its number may be the next connection's
            self._tls.close()

    def _deadline(self) -> Deadline | None:
        return None if self._seconds is None else Deadline(self._seconds)

    def _patiently(self, call: Callable[[], T], deadline: Deadline | None) -> T:
        while True:
            try:
                with self._lock:
                    return call()
            except ssl.SSLWantReadError:
                event = select.POLLIN
            except ssl.SSLWantWriteError:
                event = select.POLLOUT
            number = self._tls.fileno()
            if number < 0:
                raise OSError("closed")
            poll = select.poll()
            poll.register(number, event)
            if not poll.poll(None if deadline is None else deadline.remaining() * 1000):
                raise TimeoutError("timed out")
