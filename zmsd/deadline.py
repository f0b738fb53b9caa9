"""One time limit for several waits (invariant 9)."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A time in the future of the monotonic clock. Thread-safe.

    Each of several waits gets the seconds that the waits before it have left: ``thread.join(deadline.remaining())``.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """:param seconds: from now
        :param clock: returns monotonic seconds
        """
        self._clock = clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Return the seconds left, never below 0, so that any wait takes the result."""
        return max(0.0, self._end - self._clock())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self._clock() >= self._end
