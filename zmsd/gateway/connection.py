"""Connection: the state of a connection between its acceptance and its admission as a session.

Pool: the connections of one state, limited in number.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator

MAX_CONNECTIONS = 256
"""Connections at once in a pool."""
MAX_CONNECTIONS_PER_ADDRESS = 128
"""Of them from one IPv4 address, or one /64 of IPv6."""


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
        "heard",
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
        self.heard = False
        """Whether any byte has come, also of a TLS handshake."""
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


class Pool:
    """Connections that were not admitted, limited per network and in total. Listener thread only, except ``len``.

    Connections that have sent nothing and those that have are in a pool each, so that neither kind of flood pushes out
    a client: its request comes at once, but a TLS handshake takes several rounds of the listener's loop.
    """

    def __init__(self) -> None:
        self._ordered: dict[Connection, None] = {}  # the oldest first
        self._networks: dict[str, dict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._ordered)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._ordered))

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._ordered

    def displaced_by(self, connection: Connection) -> Connection | None:
        """Return the connection that must be closed before another one is added, or None."""
        own = self._networks.get(connection.network, {})
        if len(own) >= MAX_CONNECTIONS_PER_ADDRESS:
            return _oldest(own)
        return self.oldest() if len(self) >= MAX_CONNECTIONS else None

    def oldest(self) -> Connection | None:
        """Return the oldest connection without a token, or else the oldest; None if there is none."""
        return _oldest(self._ordered)

    def add(self, connection: Connection) -> None:
        """Add a connection as the newest."""
        self._ordered[connection] = None
        self._networks.setdefault(connection.network, {})[connection] = None

    def remove(self, connection: Connection) -> None:
        """Remove a connection that is in the pool."""
        del self._ordered[connection]
        own = self._networks[connection.network]
        del own[connection]
        if not own:
            del self._networks[connection.network]


def _oldest(connections: dict[Connection, None]) -> Connection | None:
    return next((each for each in connections if not each.trusted), next(iter(connections), None))


def network_of(address: str) -> str:
    """Return the network by which connections are counted: an IPv4 address, or the /64 of an IPv6 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))
