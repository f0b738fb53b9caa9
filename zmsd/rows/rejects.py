"""What could not be sent as it was: counted by table and reason, the newest kept for a person to look at."""

from __future__ import annotations

import logging
from collections import Counter, deque
from threading import Lock
from time import time
from typing import Any, NamedTuple

from zmsd.log import kv

log = logging.getLogger(__name__)

_KEPT = 50
_KINDS = 20
"""Of each table; further reasons are counted as one, as each is a time series for whoever keeps the metrics."""
_LOGGED = 5
"""Of each kind so many are logged; all are counted."""


class Reject(NamedTuple):
    """One case, for ``/status``."""

    when: float
    """Seconds since the epoch."""
    table: str
    reason: str
    id: str


class Rejects:
    """May be called from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._newest: deque[Reject] = deque(maxlen=_KEPT)

    def add(self, table: str, reason: str, document_id: Any) -> None:
        """:param reason: short, without values: it is a metric's label"""
        case = Reject(time(), table, reason, str(document_id)[:200])
        with self._lock:
            if (table, reason) not in self._counts and sum(name == table for name, _ in self._counts) >= _KINDS:
                reason = "other reasons"
            self._counts[table, reason] += 1
            count = self._counts[table, reason]
            self._newest.append(case)
        if count <= _LOGGED:
            more = " (more of this kind are only counted)" if count == _LOGGED else ""
            log.warning(kv(f"rejected{more}", table=table, reason=reason, id=case.id))

    def counts(self) -> dict[tuple[str, str], int]:
        """(table, reason) -> how many."""
        with self._lock:
            return dict(self._counts)

    def newest(self) -> list[Reject]:
        with self._lock:
            return list(self._newest)
