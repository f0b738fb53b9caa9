"""What an error of MongoDB means: the one table of classes, and the backoff between tries.

A label decides first (except for 280, which servers label non-resumable although the position may still be good), then
the code, never the text. Codes as in MongoDB's error_codes.yml and its change streams specification.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)

from zmsd.errors import ResumeLost, SourceError, SourceRefused, SourceUnavailable

RESUME = frozenset(
    # network, elections, shutdown
    (6, 7, 89, 91, 133, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436)
    # sharding in motion
    + (63, 150, 234, 13388)
    # cursor or operation killed, plan changed
    + (43, 50, 175, 237, 11601)
)
REOPEN_BY_TIME = frozenset((280, 260))
LOST = frozenset((286, 136, 40576, 40585, 40615, 47))
REFUSED = frozenset((13, 18, 20, 40573, 166, 40324, 40415))
SNAPSHOT_GONE = frozenset((239, 246))
SNAPSHOT_RETRY = frozenset((250, 272))
OVERSIZE = 10334


class EventTooLarge(SourceError):
    """A change event over 16 MB that the server cannot split."""


class TokenUnfit(SourceError):
    """The resume token does not fit (280, 260): the position may still be had by its time."""


def code_of(error: PyMongoError) -> int | None:
    return error.code if isinstance(error, OperationFailure) else None


def classify(error: PyMongoError) -> SourceError:
    """The class of zmsd's own for an error of pymongo; raise it ``from`` the original."""
    code = code_of(error)
    text = _text(error)
    if code in REOPEN_BY_TIME:
        return TokenUnfit(text)
    if code == OVERSIZE:
        return EventTooLarge(text)
    if code in LOST or error.has_error_label("NonResumableChangeStreamError"):
        return ResumeLost(text)
    if code in REFUSED:
        return SourceRefused(text)
    if isinstance(error, ConfigurationError):
        return SourceRefused(text)
    # Transient, or unknown: resumed in both cases, because giving up would be worse and "from now" is never right.
    return SourceUnavailable(text)


def is_transient(error: PyMongoError) -> bool:
    """Whether it is known to pass by itself."""
    return (
        code_of(error) in RESUME
        or error.has_error_label("ResumableChangeStreamError")
        or isinstance(error, (AutoReconnect, ConnectionFailure, WaitQueueTimeoutError))
    )


def _text(error: PyMongoError) -> str:
    """One line of the error, without the topology dump that pymongo appends to time-outs."""
    if isinstance(error, OperationFailure):
        details = error.details or {}
        name = details.get("codeName") or "error"
        return f"{details.get('errmsg') or error} ({name}, code {error.code})"
    text = str(error).split(", Timeout: ")[0].split(" (configured timeouts:")[0].splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


def backoff(first: float = 0.1, most: float = 10.0) -> Iterator[float]:
    """Seconds to wait before each further try: doubling, with jitter so that many readers do not knock together."""
    wait = first
    while True:
        yield wait * random.uniform(0.5, 1.0)
        wait = min(wait * 2, most)


REFUSED_WAIT = 10.0
"""Seconds between tries while an operator has to act."""
