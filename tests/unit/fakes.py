"""Typed fakes of zmsd's own interfaces, for the unit tests.

MongoDB, NATS and zero-cache have no fakes here: integration tests use the real servers.
"""

from __future__ import annotations

import pytest


class FakeClock:
    """Seconds that pass only when a test sets ``now``."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages that were logged since the last call."""
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found
