"""Commands that may take longer than other requests."""

from __future__ import annotations

from typing import Any

import pymongo
from pymongo.database import Database

_REPLY_SECONDS = 3.0
"""Seconds that a server's reply may take after the time limit has passed."""


class _Command(dict[str, Any]):
    """A command that keeps its maxTimeMS: pymongo.timeout would replace it by the time that is left."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key != "maxTimeMS":
            super().__setitem__(key, value)


def run_within(seconds: float, database: Database[dict[str, Any]], command: dict[str, Any], **options: Any) -> Any:
    """Run a command and return its reply.

    If the server needs longer than the limit it answers with error 50 (MaxTimeMSExpired). If no answer comes a little
    later, the connection has stalled: NetworkTimeout. Both are a SourceTimeout, and ``busy`` tells them apart.

    :param options: of Database.command
    """
    limited = _Command(command, maxTimeMS=round(seconds * 1000))
    with pymongo.timeout(seconds + _REPLY_SECONDS):
        return database.command(limited, **options)
