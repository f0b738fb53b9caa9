"""How much to ask a server for at once, and how long to wait for its answer (invariant 9), after timeouts."""

from __future__ import annotations

FIRST_SECONDS = 10.0
"""Deadline of a request that has not timed out before, and of every request of the driver (``mongodb/client.py``)."""
LONGEST_SECONDS = 1800.0
"""Longest deadline: mongod scans the oplog up to an old position (bench/README.rst)."""
_LONGER, _LONGER_IF_BUSY = 1.5, 4.0
"""Factors of the deadline after a timeout."""
_SMALLER = 4
"""Divisor of the batch size after a timeout."""


class Pace:
    """Deadline and batch size of requests that are repeated until they succeed. For one thread.

    A request that timed out was on a stalled connection, or the server has much to read, or the network is slow. It is
    repeated soon, with a longer deadline and a smaller batch, so it succeeds in each of these cases.
    """

    def __init__(self, size: int) -> None:
        """:param size: batch size as long as no request times out"""
        self.seconds = FIRST_SECONDS
        """Deadline of the next request in seconds."""
        self.size = size
        """Documents in the next batch."""
        self._full = size

    @property
    def is_slow(self) -> bool:
        """Whether the previous request timed out."""
        return self.seconds > FIRST_SECONDS

    def late(self, *, busy: bool) -> None:
        """Record that a request timed out.

        :param busy: the server itself reported that it needs longer, so the connection did not stall
        """
        self.seconds = min(self.seconds * (_LONGER_IF_BUSY if busy else _LONGER), LONGEST_SECONDS)
        self.size = max(self.size // _SMALLER, 1)

    def in_time(self, seconds: float = 0.0) -> None:
        """Record that a request succeeded.

        :param seconds: duration of the request; only quick requests increase the batch size again
        """
        self.seconds = FIRST_SECONDS
        if self.size < self._full and seconds < FIRST_SECONDS / _SMALLER / 2:
            self.size = min(self.size * 2, self._full)
