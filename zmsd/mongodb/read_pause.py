"""ReadPause: how long a reader waits before its next request, so that several small events come with one reply.

mongod wakes every open change stream at each write. While single documents are written at a high rate, a request for
each event costs mongod and zmsd more than the event does, and each becomes a transaction for zero-cache
(bench/README.rst).
"""

from __future__ import annotations

import time
from collections.abc import Callable

FEW_EVENTS = 100
"""Events from which on a batch is followed by the next request at once."""
SHORT_SECONDS = 0.001
"""Pause after a batch of fewer events. Without it the next request would hold the interpreter's lock while other
threads have to send the events."""
LONG_SECONDS = 0.005
"""Pause while such batches come in quick succession."""
QUICK_SECONDS = 0.02
"""Most time between two batches in quick succession. An event that comes later than ``LONG_SECONDS`` after the one
before is not delayed."""
QUICK_BATCHES = 10
"""Batches in quick succession before the pause becomes long: a few writes after each other are not delayed."""


class ReadPause:
    """The pause of one reader. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """:param clock: returns seconds"""
        self._clock = clock
        self._few = False  # the newest batch had some events, but few
        self._quick = 0  # batches with few events in quick succession
        self._at = 0.0  # of the newest batch with events

    @property
    def seconds(self) -> float:
        """Seconds to wait before the next request."""
        if not self._few:
            return 0.0
        return LONG_SECONDS if self._quick >= QUICK_BATCHES else SHORT_SECONDS

    def received(self, events: int) -> None:
        """Note a batch.

        :param events: its length
        """
        self._few = 0 < events < FEW_EVENTS
        if events:
            now = self._clock()
            quick = self._few and now - self._at <= QUICK_SECONDS
            self._quick, self._at = self._quick + 1 if quick else 0, now
