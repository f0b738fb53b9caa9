"""How much to ask a server for at once, and how long to wait for it, after requests that took too long."""

from __future__ import annotations

FIRST_SECONDS = 10.0
"""Deadline of a request that has not run out of time before: also the driver's for every request (Source)."""
LONGEST_SECONDS = 1800.0
"""mongod scans 2.2 µs an entry of the oplog up to an old position."""
_LONGER, _LONGER_IF_BUSY = 1.5, 4.0
_SMALLER = 4


class Pace:
    """Deadline and batch size of requests that are repeated until they succeed. For one thread.

    A request that ran out of time either hung on a stalled connection, or the server has much to read, or the network
    is slow. So it is repeated soon, with a longer deadline and for less at once: it succeeds in each of these cases.
    """

    def __init__(self, size: int) -> None:
        """:param size: documents to ask for at once, as long as nothing is late"""
        self.seconds = FIRST_SECONDS
        """Deadline of the next request."""
        self.size = size
        """Documents to ask for at once."""
        self._full = size

    @property
    def is_slow(self) -> bool:
        """Whether the request before ran out of time."""
        return self.seconds > FIRST_SECONDS

    def late(self, *, busy: bool) -> None:
        """A request ran out of time.

        :param busy: the server itself reported that it needs longer: it was no stalled connection
        """
        self.seconds = min(self.seconds * (_LONGER_IF_BUSY if busy else _LONGER), LONGEST_SECONDS)
        self.size = max(self.size // _SMALLER, 1)

    def in_time(self, seconds: float = 0.0) -> None:
        """A request succeeded.

        :param seconds: how long it took: only after quick ones as much as before is asked for again
        """
        self.seconds = FIRST_SECONDS
        if self.size < self._full and seconds < FIRST_SECONDS / _SMALLER / 2:
            self.size = min(self.size * 2, self._full)
