"""The log lines of refused requests: the first of a kind in full, then a count per minute."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from zmsd.log import kv

log = logging.getLogger(__name__)

COUNT_INTERVAL_SECONDS = 60.0


class Refusals:
    """Log what strangers cause without letting them fill the log. Listener thread only.

    A kind is a fixed phrase, so the number of kinds is bounded by the code.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()  # since the last line of the kind; a kind stays for a quiet minute
        self._counted = clock()

    def refused(self, kind: str, address: str, status: int, reason: str) -> None:
        """Record one refusal."""
        if kind in self._counts:
            self._counts[kind] += 1
        else:
            self._counts[kind] = 0
            log.warning(kv("request refused", address=address, status=status, kind=kind, reason=reason))

    def flush(self, now: bool = False) -> None:
        """Log the counts when a minute is over; ``now``: at once."""
        if not now and self._clock() - self._counted < COUNT_INTERVAL_SECONDS:
            return
        seconds = round(self._clock() - self._counted)
        self._counted = self._clock()
        for kind, count in list(self._counts.items()):
            if count:
                log.warning(kv("more requests refused", kind=kind, count=count, seconds=seconds))
                self._counts[kind] = 0
            else:
                del self._counts[kind]
