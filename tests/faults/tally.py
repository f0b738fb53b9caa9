"""Count what the fault tests do, and choose between their two lengths."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.support.checker import Report, check
from tests.support.writer import Write
from zmsd.commands.strict_replica import Replica

T = TypeVar("T")

LONG = os.environ.get("ZMSD_TEST_LONG") == "1"


def pick(short: T, long: T) -> T:
    """Return the first value in ``make test``, and the second in ``make faults``."""
    return long if LONG else short


@dataclass
class Tally:
    """The counts of one test: the faults that it injected, and the errors in what the client received."""

    survived: int = 0
    transactions: int = 0
    writes: int = 0
    wrong: Counter[str] = field(default_factory=Counter)  # kinds of checker.Report
    notes: list[str] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)

    def check(self, log: Iterable[Write], replica: Replica, *, exact: bool = True, copied_to: str = "") -> Report:
        """Run ``checker.check`` and count its result. Raises AssertionError if anything is wrong."""
        report = check(log, replica, exact=exact, copied_to=copied_to)
        self.transactions += report.transactions
        self.writes += report.writes
        self.wrong.update(kind for kind, _ in report.faults)
        return report.assert_clean()

    def note(self, text: str) -> None:
        """Add a figure to the report."""
        self.notes.append(text)

    def as_dict(self) -> dict[str, Any]:
        known = {kind: self.wrong.pop(kind, 0) for kind in ("lost", "twice", "torn")}
        return {
            "seconds": time.monotonic() - self._begun,
            "survived": self.survived,
            "writes": self.writes,
            "transactions": self.transactions,
            **known,
            "other": sum(self.wrong.values()),
            "notes": "; ".join(self.notes),
        }
