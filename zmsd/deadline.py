"""One budget of time for many waits."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A moment ``seconds`` from now on the monotonic clock.

    Each of several waits in a row gets what the ones before it have left:
    ``thread.join(deadline.remaining())``.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, never below 0, so that it can be given to any wait as it is."""
        return max(0.0, self._end - self._clock())

    @property
    def expired(self) -> bool:
        """True when nothing is left."""
        return self._clock() >= self._end
