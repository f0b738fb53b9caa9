"""Rejected rows and values: counted by table and reason, the newest ones kept for ``/status``."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass
from threading import Lock
from time import time
from typing import Any, Literal, NamedTuple

from zmsd.log import kv

log = logging.getLogger(__name__)

_KEPT_CASES = 50
"""Newest cases that are kept."""
_MAX_REASONS = 20
"""Reasons for each table. Further reasons are counted as one, because each reason is a time series of its own."""
_OTHER_REASONS = "other reasons"
_LOGGED_CASES = 5
"""Cases of each reason that are logged; all are counted."""


Effect = Literal["row not sent", "value sent as null", "replaces another row", "delete not sent"]
"""What became of the row. ``replaces another row``: the row was sent, and the row of another document is lost."""


class Reject(NamedTuple):
    """One rejected row or value."""

    when: float
    """Seconds since the epoch."""
    table: str
    reason: str
    id: str
    """``_id`` of the document as text, cut. No other value of a document is kept."""
    effect: Effect
    column: str | None
    """The column whose value is missing or does not fit; None where no single column is the reason."""


@dataclass(frozen=True)
class RejectCount:
    """The cases of one reason in one table."""

    table: str
    reason: str
    count: int
    effect: Effect | None
    """None where reasons with different effects are counted as one."""
    column: str | None
    """The column of the newest case; None also where reasons are counted as one."""
    id: str
    """``_id`` of the document of the newest case."""
    when: float
    """Seconds since the epoch of the newest case."""


class Rejects:
    """Counts rejected rows and values. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._last: dict[tuple[str, str], Reject] = {}
        self._newest: deque[Reject] = deque(maxlen=_KEPT_CASES)

    def add(self, table: str, reason: str, document_id: Any, effect: Effect, column: str | None = None) -> None:
        """Count a case, and log it if it is one of the first for its reason.

        :param reason: short, without values of the document: it is the label of a metric
        """
        case = Reject(time(), table, reason, str(document_id)[:200], effect, column)
        with self._lock:
            if (table, reason) not in self._counts and sum(name == table for name, _ in self._counts) >= _MAX_REASONS:
                reason = _OTHER_REASONS
            self._last[table, reason] = case
            self._counts[table, reason] += 1
            count = self._counts[table, reason]
            self._newest.append(case)
        if count <= _LOGGED_CASES:
            more = " (more of this kind are only counted)" if count == _LOGGED_CASES else ""
            log.warning(kv(f"rejected{more}", table=table, reason=reason, effect=effect, id=case.id))

    def counts(self) -> dict[tuple[str, str], int]:
        """Return (table, reason) -> number of cases."""
        with self._lock:
            return dict(self._counts)

    def totals(self) -> list[RejectCount]:
        """Return the number of cases of each reason in each table, sorted by table and reason."""
        with self._lock:
            cases = [(*key, count, self._last[key]) for key, count in sorted(self._counts.items())]
        return [
            RejectCount(table, reason, count, *_common(reason, case), case.id, case.when)
            for table, reason, count, case in cases
        ]

    def newest(self) -> list[Reject]:
        """Return the newest cases, oldest first."""
        with self._lock:
            return list(self._newest)


def _common(reason: str, case: Reject) -> tuple[Effect | None, str | None]:
    """Return effect and column of a reason, of which this is the newest case."""
    return (None, None) if reason == _OTHER_REASONS else (case.effect, case.column)
