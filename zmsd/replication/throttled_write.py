"""ThrottledWrite: a best-effort write of the newest value to the store, at most once per interval."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from zmsd.errors import StoreError
from zmsd.retry import RetryLog

T = TypeVar("T")

INTERVAL_SECONDS = 1.0
"""Time between two writes."""


class ThrottledWrite(Generic[T]):
    """Owned by one thread. Only the newest value is written; a failed write is logged and repeated."""

    def __init__(self, write: Callable[[T], None], logger: logging.Logger, name: str) -> None:
        """:param write: may raise StoreError
        :param name: words for the write in log lines about failures
        """
        self._write = write
        self._pending: T | None = None
        self._written_at = 0.0  # monotonic seconds of the last attempt
        self._failures = RetryLog(logger, name)

    def put(self, value: T) -> None:
        """Replace the value that is written next."""
        self._pending = value

    def discard(self) -> None:
        """Drop the value that is waiting."""
        self._pending = None

    def flush(self, *, now: bool = False) -> None:
        """Write the waiting value, if there is one and the interval is over, or ``now``. Never raises StoreError."""
        value = self._pending
        if value is None or not (now or time.monotonic() - self._written_at >= INTERVAL_SECONDS):
            return
        self._written_at = time.monotonic()
        try:
            self._write(value)
        except StoreError as error:
            self._failures.failed(error)
        else:
            self._pending = None
            self._failures.recovered()
