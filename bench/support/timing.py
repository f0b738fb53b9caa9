"""How long something takes to arrive, when it is written now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

PACE = 0.02
"""Seconds between writes."""


def paced(count: int, write: Callable[[int], object], arrived: Callable[[], float], pace: float = PACE) -> list[float]:
    """Milliseconds from the call of each write until it has arrived."""
    times = []
    due = time.perf_counter()
    for number in range(count):
        due = max(due + pace, time.perf_counter())
        time.sleep(max(0.0, due - time.perf_counter()))
        started = time.perf_counter()
        write(number)
        times.append(1000 * (arrived() - started))
    return times
