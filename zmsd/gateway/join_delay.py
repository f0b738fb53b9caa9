"""JoinDelay: how long a session leaves changes in the log while its client has not acknowledged the last commit.

This is Nagle's algorithm (RFC 896) for transactions. zero-cache spends most of its time for a small transaction on the
transaction and not on its rows (bench/README.rst). So what is committed while zero-cache works on the last transaction
is sent as one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FEW_ROWS = 100
"""Rows from which on zero-cache spends more time on a transaction's rows than on the transaction: nothing is held back
after such a transaction, so a backlog does not wait either."""
PATIENCE_SECONDS = 2.0
"""Seconds without any ack after which acks count as lagging. With backups zero-cache acknowledges a commit when the
backup has it, minutes later. Then nothing is held back until a commit is acknowledged within this time. It is more than
the second for which a session may wait for changes without reading acks."""


class JoinDelay:
    """The delay of one connection. Session's thread only."""

    def __init__(self, bound: float, clock: Callable[[], float] = time.monotonic) -> None:
        """:param bound: seconds for which changes are held back at most, setting ``feed.join_delay``; 0: never
        :param clock: returns seconds
        """
        self._bound = bound
        self._clock = clock
        self._sent = ""  # watermark of the newest commit
        self._sent_at = 0.0
        self._acked = ""
        self._progress_at = 0.0  # the newest ack, or the oldest commit sent since then
        self._few_rows = False
        self._lagging = False

    def sent(self, watermark: str, rows: int) -> None:
        """Note a commit that was sent.

        :param rows: that were sent with it
        """
        now = self._clock()
        if self._acked >= self._sent:  # nothing was unacknowledged
            self._progress_at = now
        self._sent, self._sent_at = watermark, now
        self._few_rows = rows < FEW_ROWS

    def remaining(self, newest_ack: str | None) -> float:
        """Return for how many seconds further changes are to be held back; 0: send them.

        :param newest_ack: highest watermark that the client has acknowledged on this connection
        """
        now = self._clock()
        if newest_ack is not None and newest_ack > self._acked:
            self._acked, self._progress_at = newest_ack, now
            if newest_ack >= self._sent and now - self._sent_at <= PATIENCE_SECONDS:
                self._lagging = False
        if self._acked >= self._sent:
            return 0.0
        if now - self._progress_at > PATIENCE_SECONDS:
            self._lagging = True
        return max(self._sent_at + self._bound - now, 0.0) if self._few_rows and not self._lagging else 0.0
