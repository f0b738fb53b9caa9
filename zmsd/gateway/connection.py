"""Connection: the state of a connection between its acceptance and its admission as a session."""

from __future__ import annotations

import ipaddress
import socket


class Connection:
    """A connection that has not been admitted. Listener thread only."""

    __slots__ = (
        "address",
        "answer",
        "answer_at",
        "buffer",
        "closed",
        "deadline",
        "early",
        "lingers",
        "network",
        "shaken",
        "sock",
        "trusted",
    )

    def __init__(self, sock: socket.socket, address: str, deadline: float, shaken: bool) -> None:
        """:param deadline: monotonic seconds until which handshake and request must be complete"""
        self.sock = sock
        self.address = address
        self.network = network_of(address)
        self.deadline = deadline
        self.shaken = shaken
        """Whether the TLS handshake is complete, or none is needed."""
        self.trusted = False
        """Whether its request carried the right token."""
        self.buffer = bytearray()
        self.early = False
        """Whether bytes have arrived after the request."""
        self.answer: memoryview | None = None
        """The rest of the answer that has not been sent."""
        self.answer_at = 0.0
        """Monotonic seconds at which a delayed answer is sent; 0 for an answer that is being sent."""
        self.lingers = False
        """Whether the answer was sent and the client has to close."""
        self.closed = False
        """Whether the listener has closed the connection. Thread-safe to read."""


def network_of(address: str) -> str:
    """Return the network by which connections are counted: an IPv4 address, or the /64 of an IPv6 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))
