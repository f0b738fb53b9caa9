"""Log refused requests: the first of each kind in full, then a count per minute."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from zmsd.log import kv

log = logging.getLogger(__name__)

COUNT_INTERVAL_SECONDS = 60.0
"""Seconds between the lines that count refusals."""


class Refusals:
    """Log refusals without letting strangers fill the log. Listener thread only.

    A kind is a fixed phrase of the code, so the number of kinds is bounded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()  # kind -> refusals since its last line; removed after a quiet minute
        self._counted = clock()  # when the counts were last logged

    def refused(self, kind: str, address: str, status: int, reason: str) -> None:
        """Log or count one refusal.

        :param kind: a fixed phrase
        :param status: HTTP status of the answer
        :param reason: text of the answer
        """
        if kind in self._counts:
            self._counts[kind] += 1
        else:
            self._counts[kind] = 0
            log.warning(kv("request refused", address=address, status=status, kind=kind, reason=reason))

    def flush(self, now: bool = False) -> None:
        """Log the counts if a minute is over.

        :param now: log them at once
        """
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
