"""A change stream read by command: whole batches, each with the token after it, the wait chosen for each call.

pymongo's own ChangeStream hands out event by event and resumes once; here a batch is a list as it came (117k against
97k events/s), and an error only marks the cursor for reopening at the place it had reached: the caller decides when to
try again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.int64 import Int64
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError

from zmsd.errors import ResumeLost
from zmsd.feed import position
from zmsd.feed.ahead import RAW, Ahead, decoded
from zmsd.feed.faults import EventUnreadable, TokenUnfit, classify
from zmsd.feed.source import CODEC, Document, Source

ENVELOPE = ("operationType", "ns.coll", "to.coll", "documentKey", "txnNumber", "wallTime")
"""What is wanted of every event, besides its documents."""
_FEW = 20
_AT_ONCE_MS = 1
AWAIT_MS = 1000
"""Milliseconds that a getMore may wait for events: also how long a stop may wait for it."""
BATCH = 1000


class Batch(NamedTuple):
    """What one reply held, or a slice of it."""

    events: list[Document]
    token: Document
    """postBatchResumeToken: everything up to it has been delivered."""
    short: bool
    """It ended below its batchSize: nothing more was visible, unless 16 MB were reached first."""
    now: int
    """The position of the database's newest operation by then."""


class ChangeCursor:
    """One change stream, on a collection or (``None``) on the database. For one thread."""

    def __init__(
        self,
        source: Source,
        collection: str | None,
        after: int,
        stages: list[Document],
        options: Document | None = None,
        batch_size: int = BATCH,
        *,
        ahead: bool = False,
    ) -> None:
        """:param after: the position after which it begins
        :param stages: what follows ``$changeStream`` in the pipeline
        :param options: of ``$changeStream``: fullDocument and so on
        :param ahead: in a backlog have the next batch made while the caller is busy with one
        """
        self._source = source
        self._collection = collection
        self._stages = stages
        self._matches = [stage for stage in stages if "$match" in stage]
        self._options = options or {}
        self._batch_size = batch_size
        self._reads_ahead = ahead
        self._ahead: Ahead | None = None
        self._slices: Iterator[Batch] = iter(())  # of a reply that was received ahead
        self._session: ClientSession | None = None
        self._id = 0
        self._set = source.set
        self._namespace = ""
        self.reopen_after(after)

    @property
    def is_open(self) -> bool:
        """Whether the next read goes on, or has to open it first, which can take long."""
        return bool(self._id)

    def reopen_after(self, after: int) -> None:
        """Go on after a position: at the beginning, and when an invalidate event has ended the stream."""
        self._drop()
        self._place: Document = {"startAtOperationTime": position.to_timestamp(after + 1)}
        self._begin = f"{after + 1:016X}"

    def read(self, wait_ms: int = AWAIT_MS) -> Batch:
        """The next batch; an empty one after ``wait_ms`` milliseconds.

        Raises SourceError; after SourceUnavailable the next call goes on at the same place. After TokenUnfit the place
        may still be had by its time, in a new cursor, once it is sure that this is the same database.
        """
        try:
            batch = next(self._slices, None) or self._receive(wait_ms)
        except InvalidBSON as error:
            self._drop()
            raise EventUnreadable(f"bytes that are no BSON: {error}") from error
        except PyMongoError as error:
            self._drop()
            fault = classify(error)
            if isinstance(fault, TokenUnfit) and "resumeAfter" not in self._place:
                fault = ResumeLost(str(fault))  # not even its time is there
            raise fault from error
        self._place = {"resumeAfter": batch.token}
        if not batch.events and batch.token["_data"][2:18] == self._begin:
            # Opened by time, it answers with the token of that time, though nothing has been read of it yet.
            return batch._replace(token={"_data": f"82{int(self._begin, 16) - 1:016X}"})
        return batch

    def read_without_documents(self) -> Batch:
        """The next few events without their documents: after EventUnreadable, which does not say which one was it."""
        envelope = {"$project": dict.fromkeys(ENVELOPE, 1)}
        with closing(ChangeCursor(self._source, self._collection, 0, [*self._matches, envelope], {}, _FEW)) as few:
            few._place = self._place
            batch = few.read()
        self._place = {"resumeAfter": batch.token}
        return batch

    def close(self) -> None:
        """End the cursor on the server. Never raises: a server that is gone has ended it already."""
        if self._ahead is not None:
            self._ahead.join()
        if self._id:
            with contextlib.suppress(PyMongoError):
                self._source.db.command({"killCursors": self._namespace, "cursors": [Int64(self._id)]})
        self._drop()

    def _receive(self, wait_ms: int) -> Batch:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            reply = ahead.result()
        elif self._id:
            reply = self._get_more(wait_ms)
        else:
            reply = self._open()
        cursor = reply["cursor"]
        self._id = cursor["id"]
        events = cursor["nextBatch"] if "nextBatch" in cursor else cursor["firstBatch"]
        now = position.of_timestamp(reply["operationTime"])
        batch = Batch(events, dict(cursor["postBatchResumeToken"]), len(events) < self._batch_size, now)
        if self._reads_ahead and self._id and not batch.short:
            self._ahead = Ahead(partial(self._get_more, _AT_ONCE_MS, RAW))
        if ahead is None or not events:
            return batch
        self._slices = _slices(batch)
        return next(self._slices)

    def _open(self) -> Document:
        self._source.check_set(self._set)  # a token would go on in another one too, in silence
        self._session = self._session or self._source.client.start_session(causal_consistency=False)
        command = {
            "aggregate": self._collection or 1,
            "pipeline": [{"$changeStream": {**self._options, **self._place}}, *self._stages],
            "cursor": {"batchSize": self._batch_size},
        }
        reply = self._source.db.command(command, session=self._session, codec_options=CODEC)
        self._namespace = reply["cursor"]["ns"].partition(".")[2]
        return reply

    def _get_more(self, wait_ms: int, codec: CodecOptions[Any] = CODEC) -> Document:
        command = {
            "getMore": Int64(self._id),
            "collection": self._namespace,
            "batchSize": self._batch_size,
            "maxTimeMS": wait_ms,
        }
        return self._source.db.command(command, session=self._session, codec_options=codec)

    def _drop(self) -> None:
        if self._ahead is not None:
            self._ahead.join()  # it uses the session
            self._ahead = None
        self._slices = iter(())
        self._id = 0
        if self._session is not None:
            self._session.end_session()
            self._session = None


def _slices(raw: Batch) -> Iterator[Batch]:
    """A batch of raw events in parts, each with the place after it."""
    for events, last in decoded(raw.events):
        yield raw._replace(events=events) if last else Batch(events, events[-1]["_id"], False, raw.now)
