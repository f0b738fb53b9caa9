"""What the oplog says of a position: whether it is of this database's history. In an older state of the database, or in
another one, a time says nothing: it goes on in silence from any that is not too old."""

from __future__ import annotations

from typing import Any

from bson import Timestamp
from bson.int64 import Int64
from pymongo import ReadPreference
from pymongo.errors import OperationFailure, PyMongoError

from zmsd import position
from zmsd.errors import SourceUnavailable
from zmsd.mongodb.errors import LOST, REOPEN_BY_TIME, classify, code_of, is_transient
from zmsd.mongodb.source import CODEC, Source


def has_event(source: Source, token: str) -> bool:
    """Whether the event of a resume token is in the oplog, or was before the oplog's first entry.

    Raises SourceError: SourceUnavailable, too, where the database has not come so far yet.

    :param token: as :func:`position.text_of_token` wrote it
    """
    found = position.token_of_text(token)
    at = position.of_token(found)
    try:
        # mongod misses the event only where it comes upon a later one.
        if _first_event(source, {"resumeAfter": found})[0] is not None:
            return True
        first, reached = _first_event(source, {"startAtOperationTime": position.to_timestamp(at)})
    except PyMongoError as error:
        if code_of(error) in REOPEN_BY_TIME:
            return False
        if code_of(error) in LOST:
            return True  # too old to tell; whether the place itself can be had is another question
        raise classify(error) from error
    if first is None and reached <= at:
        raise _not_yet(at)
    return first == at


def has_operation(source: Source, at: int) -> bool:
    """Whether the oplog has an entry of a position, or begins later, or cannot be read: the right to is not required,
    and mongos has none.

    Raises SourceError: SourceUnavailable, too, where the database has not come so far yet.

    :param at: a time at which an operation has ended, as a copy's
    """
    if source.deployment.sharded:
        return True
    try:
        found = _first_entry(source, {"ts": {"$gte": position.to_timestamp(at)}})
        if found == at:
            return True
        start = _first_entry(source, {})  # only now: it may have gone on since
    except PyMongoError as error:
        if isinstance(error, OperationFailure) and not is_transient(error):
            return True
        raise classify(error) from error
    if found is None or start is None:
        raise _not_yet(at)
    return at < start


def _first_entry(source: Source, query: dict[str, Any]) -> int | None:
    entries = source.client.get_database("local", read_preference=ReadPreference.PRIMARY)["oplog.rs"]
    entry = entries.find_one(query, {"ts": 1}, sort=[("$natural", 1)])
    return None if entry is None else position.of_timestamp(entry["ts"])


def _first_event(source: Source, place: dict[str, Any]) -> tuple[int | None, int]:
    """The position of the first event in a change stream, None where there is none yet, and up to where it was looked
    for."""
    pipeline = [{"$changeStream": place}, {"$project": {"clusterTime": 1}}]
    command = {"aggregate": 1, "pipeline": pipeline, "cursor": {"batchSize": 1}}
    cursor = source.db.command(command, codec_options=CODEC)["cursor"]
    if cursor["id"]:
        namespace = cursor["ns"].partition(".")[2]
        source.db.command({"killCursors": namespace, "cursors": [Int64(cursor["id"])]})
    times: list[Timestamp] = [event["clusterTime"] for event in cursor["firstBatch"]]
    return position.of_timestamp(times[0]) if times else None, position.of_token(cursor["postBatchResumeToken"])


def _not_yet(at: int) -> SourceUnavailable:
    mark = position.watermark(at)
    return SourceUnavailable(
        f"this database has not come to {mark} yet, up to which it was read: is the clock of its machine right?"
    )
