"""The class of each error of MongoDB, in one table (invariant 10).

A label decides first, then the code, never the text. The exception is code 280, which servers label non-resumable
although the position may still be good.

Codes: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
Resumable errors: https://github.com/mongodb/specifications/blob/master/source/change-streams/change-streams.md
"""

from __future__ import annotations

import re

from bson.errors import InvalidBSON
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

from zmsd.errors import (
    EventUnreadable,
    NotWatchable,
    OptionRefused,
    ResumeLost,
    SourceError,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
    TokenUnfit,
)

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
REFUSED = frozenset((13, 18, 20, 40573, 40324, 40415))
SNAPSHOT_GONE = frozenset((239, 246))
SNAPSHOT_RETRY = frozenset((250, 272))
OVERSIZE = 10334
NO_CHANGE_STREAM = 166
OPTION_REFUSED = 2
"""BadValue: the server does not take an option, as ``whenAvailable`` below featureCompatibilityVersion 6.0."""
_TIME_LIMIT = 50


def code_of(error: PyMongoError) -> int | None:
    """Return the code of an error that the server sent, or None for an error of the driver."""
    return error.code if isinstance(error, OperationFailure) else None


def classify(error: PyMongoError) -> SourceError:
    """Return the SourceError for an error of pymongo. The caller raises it ``from`` the original."""
    code = code_of(error)
    text = _text(error)
    if code in REOPEN_BY_TIME:
        return TokenUnfit(text)
    if code == OPTION_REFUSED:
        return OptionRefused(text)
    if code == OVERSIZE:
        return EventUnreadable(text)
    if code in LOST or error.has_error_label("NonResumableChangeStreamError"):
        return ResumeLost(text)
    if code == NO_CHANGE_STREAM:
        return NotWatchable(text)
    if code in REFUSED:
        return SourceRefused(text)
    if isinstance(error, ConfigurationError):
        return SourceRefused(text)
    if isinstance(error, NetworkTimeout) or code == _TIME_LIMIT:
        return SourceTimeout(text, busy=code == _TIME_LIMIT)
    # Transient or unknown. Both are resumed: giving up would be worse, and "from now" is never right.
    return SourceUnavailable(text)


SCARCITY_HINT = "raise the memory limit (MemoryMax= of the unit), or publish fewer or smaller fields"


def undecodable(collection: str, error: InvalidBSON | MemoryError) -> SourceError:
    """Return the error for a document of ``collection`` that could not be decoded.

    mongod stores what it does not look into, such as a binary of subtype 2 with a wrong length inside.
    """
    if is_scarcity(error):
        return SourceUnavailable(f"out of memory while reading collection {collection}: {SCARCITY_HINT}")
    reason = f"collection {collection} has a document with bytes that are not valid BSON ({one_line(error)})"
    return SourceRefused(f"{reason}: replace or delete it, mongod's validate finds it from 6.2 on")


def is_scarcity(error: InvalidBSON | MemoryError) -> bool:
    """Return whether memory was short. bson raises InvalidBSON without a text where its C code met a MemoryError."""
    return isinstance(error, MemoryError) or not str(error)


def is_transient(error: PyMongoError) -> bool:
    """Return whether an error is known to pass by itself."""
    return (
        code_of(error) in RESUME
        or error.has_error_label("ResumableChangeStreamError")
        or isinstance(error, (AutoReconnect, ConnectionFailure, WaitQueueTimeoutError))
    )


_ADVICE = (
    (
        "No replica set members available",
        "start mongod with this --replSet and run rs.initiate() once, or correct the URI",
    ),
    ("is primary", "an election is under way, or rs.initiate() was never run"),
    ("readPreference", "wait for one, or correct the URI"),
    ("Authentication failed", "check user, password and authSource"),
    # mongod also says so on connections whose user was dropped.
    (
        "requires authentication",
        "give a user: mongodb://USER:PASSWORD@HOST/..., or create the URI's user again if it was dropped",
    ),
    ("not authorized on", "the user lacks a role; zmsd check names it"),
)
"""(part of a text, advice). The name of the replica set in the URI follows "No replica set members available"."""
_REWRITTEN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), text)
    for pattern, text in (
        # what the driver and mongod append
        (r",? ?full error: .*", ""),
        (r",? ?Timeout: [0-9.]+s, Topology Description: .*", ""),
        (r" \(configured timeouts: [^)]*\)", ""),
        (r"( to execute command) \{ (\w+):.*", r"\1 \2"),
        (r" ?\(_ssl\.c:\d+\)", ""),
        (r"\[Errno -?\d+\] ", ""),
        # what the driver says in its own terms
        (r'No replica set members match selector "Primary\(.*?\)"', "no member of the replica set is primary"),
        (
            r'No replica set members match selector ".*?"',
            "no member of the replica set satisfies the URI's readPreference",
        ),
        (r"Cannot use MongoClient after close", "the connection was closed meanwhile"),
        (r"encoding with 'idna' codec failed.*", "the name of the host is not valid"),
        # values and Python's names
        (r"RawBSONDocument\(.*", "a document"),
        (r"CodecOptions\(.*", ""),
        (r"<class '[\w.]*?(\w+)'>", r"\1"),
        (r"\{[^{}]{0,40}(\{.*\}|[^{}]{40,}).*\}", "{…}"),
    )
)


def one_line(error: BaseException | str) -> str:
    """Return the text of an error for people: one line without dumps, class names and addresses of source lines.

    Every text of the driver and of mongod that zmsd shows has been through this function.
    """
    text = str(error)
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    return " ".join(text.split()) or "no reason was given"


def message_of(error: OperationFailure) -> str:
    """Return mongod's own message, for people."""
    return one_line(str((error.details or {}).get("errmsg") or error))


def _text(error: PyMongoError) -> str:
    """Return one line of the error for people, and what to do."""
    if isinstance(error, OperationFailure):
        text = f"{message_of(error)} ({(error.details or {}).get('codeName') or 'error'}, code {error.code})"
    elif isinstance(error, NotPrimaryError):
        text = "the member is not primary any more"
    else:
        text = one_line(error)
    for found, advice in _ADVICE:
        if found in text:
            return f"{text}: {advice} (mongodb.uri)"
    if isinstance(error, ServerSelectionTimeoutError):
        return f"{text}: is it running, and can it be reached from here? (mongodb.uri)"
    return text
