"""The progress that a copy transaction reports."""

from __future__ import annotations

import time

from zmsd.replication.copy_transaction import CopyProgress


def test_remaining_time_is_unknown_while_no_document_arrives() -> None:
    now = time.monotonic()
    progress = CopyProgress(documents=100, estimated=300, started=now - 10, moved=now - 1)
    assert progress.eta_seconds == 20
    progress.moved = now - 60
    assert progress.eta_seconds is None
    assert CopyProgress(estimated=300, started=now, moved=now).eta_seconds is None


def test_copy_is_ahead_of_a_limit_by_the_time_to_wait() -> None:
    progress = CopyProgress(documents=100, rows=400, started=time.monotonic())
    assert 3.9 < progress.ahead_of(100) <= 4.0
    assert progress.ahead_of(0) == 0
    assert CopyProgress(documents=100, started=time.monotonic() - 10).ahead_of(100) == 0
