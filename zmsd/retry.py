"""Retry what fails for a time: the waits between attempts, and log lines that do not repeat themselves."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from threading import Event
from typing import TypeVar

from zmsd.errors import SourceUnavailable, Stopped
from zmsd.log import kv

log = logging.getLogger(__name__)

T = TypeVar("T")

REFUSED_WAIT_SECONDS = 10.0
"""Seconds between attempts while an operator has to act."""
_REMINDER_SECONDS = 30.0


def backoff(first: float = 0.1, most: float = 10.0) -> Iterator[float]:
    """Return the waits between attempts: doubling from ``first`` to ``most`` seconds, with jitter of up to a half.

    The jitter keeps many readers from asking a server that comes back at the same moment.
    """
    wait = first
    while True:
        yield wait * random.uniform(0.5, 1.0)
        wait = min(wait * 2, most)


class RetryLog:
    """Log a failure that recurs in a retry loop: the first time, then at intervals, then the recovery.

    A failure of another kind, or of a higher level, than the failures before is logged at once. For one thread.
    """

    def __init__(
        self,
        log: logging.Logger,
        what: str,
        *,
        every: float = _REMINDER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param what: begins the phrases "… failed" and "… recovered"
        :param every: seconds between two lines about the same failure
        :param clock: returns monotonic seconds
        """
        self.attempts = 0
        """Failures since the last success."""
        self._log = log
        self._what = what
        self._every = every
        self._clock = clock
        self._level = 0
        self._kinds: set[type] = set()
        self._since = self._logged = 0.0

    def failed(self, error: object, /, level: int = logging.WARNING, **fields: object) -> None:
        """Count a failure, and log it if a line is due.

        :param error: an exception or its text
        """
        now = self._clock()
        self.attempts += 1
        first = self.attempts == 1
        if first:
            self._since = now
            self._kinds.clear()
        elif type(error) in self._kinds and level <= self._level and now - self._logged < self._every:
            return
        self._logged = now
        self._kinds.add(type(error))
        self._level = level if first else max(level, self._level)
        count = {} if first else {"attempts": self.attempts, "seconds": now - self._since}
        self._log.log(level, kv(f"{self._what} failed", error=str(error) or repr(error), **count, **fields))

    def recovered(self, **fields: object) -> None:
        """Log the first success after failures; do nothing after a success."""
        if self.attempts:
            seconds = self._clock() - self._since
            self._log.info(kv(f"{self._what} recovered", attempts=self.attempts, seconds=seconds, **fields))
            self.attempts = 0


def retry_while_unavailable(what: str, call: Callable[[], T], stop: Event) -> T:
    """Return the result of ``call``, which is repeated while it raises SourceUnavailable.

    Raises Stopped once ``stop`` is set, and whatever else ``call`` raises.

    :param what: the operation, for the log
    """
    waits = backoff()
    retry_log = RetryLog(log, what)
    while True:
        try:
            result = call()
        except SourceUnavailable as error:
            retry_log.failed(error)
            if stop.wait(next(waits)):
                raise Stopped from error
        else:
            retry_log.recovered()
            return result
