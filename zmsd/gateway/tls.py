"""TLS: load a certificate, read when it expires, and share one TLS socket between two threads."""

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

_CHUNK_BYTES = 1 << 16
"""Most bytes of one call of ``send``, so that the lock is held for a short time."""
EXPIRY_WARNING_SECONDS = 30 * 24 * 3600
"""Time before the expiry of the certificate from which on zmsd warns."""


def context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return the context of a server with this certificate.

    :param cert: PEM file with the certificate, followed by its chain
    :param key: PEM file with the unencrypted private key
    :raises ZmsdError: the files cannot be read or do not belong together
    """
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # An empty password, so that OpenSSL refuses an encrypted key instead of asking the terminal for one.
        made.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        text = re.sub(r" \(_ssl\.c:\d+\)$", "", str(reason))
        raise ZmsdError(
            f"server.tls: cannot load certificate {cert} with key {key}, expected unencrypted PEM: {text}"
        ) from error
    return made


def expiry(cert: Path) -> int | None:
    """Return when the first certificate of a file expires, in seconds since the epoch; None if that cannot be read.

    This is notAfter of RFC 5280, section 4.1. The ssl module has it only for a peer's certificate.
    """
    try:
        found = re.search(
            r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", cert.read_text("latin-1"), re.DOTALL
        )
        der = ssl.PEM_cert_to_DER_cert(found[0]) if found else b""
        at, _ = _der(der, _der(der, 0)[0])  # the first field of the signed part of the certificate
        if der[at] == 0xA0:  # an optional version comes first
            _, at = _der(der, at)
        for _ in ("serial number", "signature", "issuer"):
            _, at = _der(der, at)
        _, at = _der(der, _der(der, at)[0])  # the validity: skip notBefore
        start, end = _der(der, at)
        form = "%y%m%d%H%M%SZ" if der[at] == 0x17 else "%Y%m%d%H%M%SZ"
        return int(datetime.strptime(der[start:end].decode(), form).replace(tzinfo=UTC).timestamp())
    except (OSError, ValueError, IndexError):
        return None


def expiry_warning(cert: Path, now: float) -> str | None:
    """Return one line about a certificate that has expired or expires within EXPIRY_WARNING_SECONDS; else None.

    :param now: seconds since the epoch
    """
    ends = expiry(cert)
    if ends is None or ends - now > EXPIRY_WARNING_SECONDS:
        return None
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(ends))
    verb = "expired" if ends <= now else "expires"
    return f"server.tls: the certificate {cert} {verb} at {when}: renew it and reload zmsd"


def _der(der: bytes, at: int) -> tuple[int, int]:
    """Return the offsets at which the content of the DER element at ``at`` begins and ends. Raises IndexError."""
    size, start = der[at + 1], at + 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[at + 2 : start], "big")
    return start, start + size


class TlsSocket:
    """A TLS connection after its handshake, with the methods of a socket that the gateway uses. Thread-safe.

    One thread reads from a session's socket while another writes, but OpenSSL allows one call on a connection at a
    time (https://docs.openssl.org/3.0/man7/openssl-threads/). So each call is non-blocking and made under a lock, and
    a thread waits outside of the lock.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        """:param sock: a non-blocking socket after its handshake"""
        self._tls = sock
        self._seconds: float | None = None
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def settimeout(self, seconds: float | None) -> None:
        """Set the timeout of later calls, in seconds; None for no timeout."""
        self._seconds = seconds

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes, or b"" if the peer has closed. Raises TimeoutError and OSError."""
        return self._patiently(lambda: self._tls.recv(size), self._deadline())

    def recv_into(self, buffer: Any) -> int:
        """Read into a buffer, and return the number of bytes. Raises TimeoutError and OSError."""
        return self._patiently(lambda: self._tls.recv_into(buffer), self._deadline())

    def sendall(self, data: bytes) -> None:
        """Send all bytes. Raises TimeoutError and OSError."""
        deadline, rest = self._deadline(), memoryview(data)
        while rest:
            rest = rest[self._patiently(partial(self._tls.send, rest[:_CHUNK_BYTES]), deadline) :]

    def shutdown(self, how: int) -> None:
        """Shut down the TCP connection without a TLS goodbye.

        ``SSLSocket.shutdown`` would also drop the TLS layer, and a waiting reader would take encrypted bytes for data.
        """
        socket.socket.shutdown(self._tls, how)

    def close(self) -> None:
        """Close the socket. Thread-safe."""
        with self._lock:  # not during a call: the system may give the descriptor's number to the next connection
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
            descriptor = self._tls.fileno()
            if descriptor < 0:
                raise OSError("closed")
            poll = select.poll()
            poll.register(descriptor, event)
            if not poll.poll(None if deadline is None else deadline.remaining() * 1000):
                raise TimeoutError("timed out")
