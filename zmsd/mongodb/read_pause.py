"""ReadPause: how long a reader waits before its next request, so that several small events come with one reply.

mongod wakes every open change stream at each write. While single documents are written at a high rate, a request for
each event costs mongod and zmsd more than the event does, and each becomes a transaction for zero-cache
(bench/README.rst).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

FEW_EVENTS = 100
"""Events from which on a batch is followed by the next request at once: a backlog is read without a pause."""
SHORT_SECONDS = 0.001
"""Shortest pause after a batch of fewer events. Without it the next request would hold the interpreter's lock while
other threads have to send the events."""
LONG_SECONDS, LONG_RATE = 0.02, 1000.0
"""Longest pause, and the events per second from which on it is taken. At lower rates it is shorter in proportion."""
_RATE_BATCHES = 10
"""Batches over which the rate is measured: a few writes after each other are not delayed."""


class ReadPause:
    """The pause of one reader. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """:param clock: returns seconds"""
        self._clock = clock
        self._few = False  # the newest batch had some events, but few
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RATE_BATCHES + 1)  # (time, events)

    @property
    def seconds(self) -> float:
        """Seconds to wait before the next request."""
        if not self._few:
            return 0.0
        return min(max(SHORT_SECONDS, LONG_SECONDS * self._rate() / LONG_RATE), LONG_SECONDS)

    def received(self, events: int) -> None:
        """Note a batch.

        :param events: its length
        """
        self._few = 0 < events < FEW_EVENTS
        if events:
            self._recent.append((self._clock(), events))

    def _rate(self) -> float:
        """Return the events per second of the newest batches; 0 after too few."""
        if len(self._recent) <= _RATE_BATCHES:
            return 0.0
        (first, not_counted), (newest, _) = self._recent[0], self._recent[-1]
        return (sum([events for _, events in self._recent]) - not_counted) / max(newest - first, 1e-9)
