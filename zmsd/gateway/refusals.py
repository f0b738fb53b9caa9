"""Log refused requests: the first of each kind and minute in full, and the number of the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from zmsd.log import LineLimit, kv

log = logging.getLogger(__name__)


class Refusals:
    """Log refusals without letting strangers fill the log. Listener thread only.

    A kind is a fixed phrase of the code, so the number of kinds is bounded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """:param clock: seconds that never go back"""
        self._limit = LineLimit(1, clock)

    def refused(self, kind: str, address: str, status: int, reason: str) -> None:
        """Log or count one refusal.

        :param kind: a fixed phrase
        :param status: HTTP status of the answer
        :param reason: text of the answer
        """
        if self._limit.passes(kind):
            log.warning(kv("request refused", address=address, status=status, kind=kind, reason=reason))

    def flush(self) -> None:
        """Log the counts if a minute is over. Call it several times a second."""
        for kind, count, seconds in self._limit.suppressed():
            log.warning(kv("more requests refused", kind=kind, count=count, seconds=round(seconds)))
