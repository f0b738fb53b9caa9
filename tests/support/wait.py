"""Wait for conditions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FACTOR = float(os.environ.get("ZMSD_TEST_TIMEOUT_FACTOR", "1"))


def wait_until(predicate: Callable[[], T], description: str, timeout: float = 10) -> T:
    """Call ``predicate`` until it returns a true value, and return that. Raises AssertionError after ``timeout``
    seconds."""
    end = time.monotonic() + timeout * FACTOR
    pause = 0.005
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {description}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
