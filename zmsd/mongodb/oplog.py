"""Ask the oplog whether a position belongs to this database's history (invariant 5).

Opening a change stream at a cluster time does not answer that: an older state of the database, or another database,
opens a stream at any time that is not too old.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from bson.int64 import Int64
from pymongo.errors import OperationFailure, PyMongoError

from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import SourceUnavailable
from zmsd.mongodb import resume_token
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.cursors import collection_of, kill_cursor
from zmsd.mongodb.errors import LOST, REOPEN_BY_TIME, classify, code_of, is_transient
from zmsd.mongodb.source import Source
from zmsd.mongodb.time_limit import run_within
from zmsd.pace import FIRST_SECONDS

_AT_ONCE_MS = 1


def has_event(source: Source, token: str, seconds: float = FIRST_SECONDS) -> bool:
    """Return whether the event of a resume token is in the oplog, or was before the oplog's first entry.

    The cost does not grow with what other databases wrote, with one exception: where ``local.oplog.rs`` may not be read
    and the event is not there, mongod scans the oplog up to the database's next event.

    Raises SourceError: SourceUnavailable also where the database has not reached the event's time yet.

    :param token: as ``resume_token.to_text`` wrote it
    :param seconds: deadline of such a scan
    """
    found = resume_token.from_text(token)
    at = resume_token.position_of(found)
    entry = _has_entry(source, at)
    if entry is False:
        return False
    start: Document = {"startAtOperationTime": position.to_timestamp(at)}
    later = {"clusterTime": {"$gt": start["startAtOperationTime"]}}
    try:
        event, reached = _first_event(source, start, {"$or": [{"_id._data": found["_data"]}, later]}, seconds)
        if event is not None and event["_data"] != found["_data"]:
            # Not there, or mongod writes this event's token in another way than it did: it has been upgraded since.
            # It reads both ways, and answers 280 when it comes upon a later event without having found this one.
            _first_event(source, {"resumeAfter": found}, {}, seconds)
            return True
        if event is None and reached > at:  # likewise, but there is no later event
            event, _ = _first_event(source, start, {}, seconds)
            return event is not None and resume_token.position_of(event) == at
    except PyMongoError as error:
        if code_of(error) in REOPEN_BY_TIME:
            return False
        if code_of(error) in LOST:
            return True  # too old to decide; whether the changes after it can be read is another question
        raise classify(error) from error
    if event is None:
        raise _not_yet(at)
    return True


def has_operation(source: Source, at: int) -> bool:
    """Return whether the oplog has an entry at a position, or begins later, or cannot be read.

    Reading it needs a right that zmsd does not require, and mongos has none.

    Raises SourceError: SourceUnavailable also where the database has not reached the position yet.

    :param at: a time at which an operation has ended, as an initial sync's
    """
    return _has_entry(source, at) is not False


def _has_entry(source: Source, at: int) -> bool | None:
    """Return whether the oplog has an entry at a position; None where it begins later or cannot be read.

    ``ts`` is the oplog's order, so this is a seek.
    """
    if source.deployment.sharded:
        return None
    try:
        found = _first_entry(source, {"ts": {"$gte": position.to_timestamp(at)}})
        if found == at:
            return True
        start = _first_entry(source, {})  # read second, because the oplog's start may move on
    except PyMongoError as error:
        if isinstance(error, OperationFailure) and not is_transient(error):
            return None
        raise classify(error) from error
    if found is None or start is None:
        raise _not_yet(at)
    return None if at < start else False


def _first_entry(source: Source, query: dict[str, Any]) -> int | None:
    entry = source.local["oplog.rs"].find_one(query, {"ts": 1}, sort=[("$natural", 1)])
    return None if entry is None else position.of_timestamp(entry["ts"])


def _first_event(source: Source, start: Document, match: Document, seconds: float) -> tuple[Document | None, int]:
    """Return the token of a change stream's first event that matches, None where there is none yet, and the position up
    to which mongod has looked.

    :param start: the option of ``$changeStream`` that says where it starts
    """
    pipeline = [{"$changeStream": start}, {"$match": match}, {"$project": {"_id": 1}}]
    command: Document = {"aggregate": 1, "pipeline": pipeline, "cursor": {"batchSize": 0}}
    run = partial(source.db.command, codec_options=CODEC)
    with source.client.start_session(causal_consistency=False) as session:
        if seconds > FIRST_SECONDS:
            command["cursor"]["batchSize"] = 1
            cursor = run_within(seconds, source.db, command, session=session, codec_options=CODEC)["cursor"]
            events = cursor["firstBatch"]
        else:
            # Only a getMore of one event ends at the event: an aggregate looks for 32 first, to the end of the oplog
            # (internalDocumentSourceCursorInitialBatchSize).
            cursor = run(command, session=session)["cursor"]
            more = {"getMore": Int64(cursor["id"]), "collection": collection_of(cursor), "batchSize": 1}
            cursor = run({**more, "maxTimeMS": _AT_ONCE_MS}, session=session)["cursor"]
            events = cursor["nextBatch"]
        kill_cursor(partial(run, session=session), collection_of(cursor), cursor["id"])
    return events[0]["_id"] if events else None, resume_token.position_of(cursor["postBatchResumeToken"])


def _not_yet(at: int) -> SourceUnavailable:
    mark = position.watermark(at)
    return SourceUnavailable(
        f"the server's cluster time is still behind {mark}, the last position read; check the MongoDB host's clock"
    )
