"""What an initial sync reports of itself."""

from __future__ import annotations

import time

from zmsd.replication.initial_sync import Progress


def test_remaining_time_is_unknown_while_no_document_arrives() -> None:
    now = time.monotonic()
    progress = Progress(documents=100, estimated=300, started=now - 10, moved=now - 1)
    assert progress.eta_seconds == 20
    progress.moved = now - 60
    assert progress.eta_seconds is None
    assert Progress(estimated=300, started=now, moved=now).eta_seconds is None
