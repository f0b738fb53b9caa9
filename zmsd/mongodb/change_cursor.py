"""A change stream that is read by command: complete batches, each with its resume token, and a wait for each call.

pymongo's ChangeStream returns one event at a time and resumes once by itself. Here a batch stays the list that mongod
sent, which is faster (bench/README.rst), and after an error the caller decides when to resume.

Reference: https://github.com/mongodb/specifications/blob/master/source/change-streams/change-streams.md
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from threading import Thread
from typing import Any, NamedTuple

from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError

from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import EventUnreadable, ResumeLost, SourceTimeout, SourceUnavailable, TokenUnfit
from zmsd.mongodb import raw_batch, resume_token
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.cursors import collection_of, kill_cursor
from zmsd.mongodb.errors import SCARCITY_HINT, classify, is_scarcity, one_line
from zmsd.mongodb.events import ChangeEvent, change_event
from zmsd.mongodb.members import Pin
from zmsd.mongodb.pipelines import ENVELOPE_ONLY
from zmsd.mongodb.source import Source
from zmsd.pace import Pace

FEW_EVENTS = 20
"""batchSize of a command whose events may be too large for one reply."""
AT_ONCE_MS = 1
"""Milliseconds for a getMore that returns the events that exist and does not wait for more."""
AWAIT_MS = 1000
"""Milliseconds that a getMore may wait for events. A stop waits for it as long."""
BATCH = 1000
"""Events in a batch."""
_MEMBER_WAIT_SECONDS = 5.0
"""Seconds for which a secondary may lag behind a position before another member is tried."""
_FULL_REPLY_BYTES = 4 << 20
"""Bytes of resume tokens, or of a complete reply, from which on a batch may have ended because its reply was full. A
token has the ``_id`` of its document in hexadecimal, and MongoDB accepts an ``_id`` of megabytes."""


class Batch(NamedTuple):
    """The events of one reply, or of a slice of it."""

    events: list[ChangeEvent]
    token: Document
    """Resume token after the events (``postBatchResumeToken``): all events up to it have been returned."""
    drained: bool
    """The batch ended below its batchSize: no further event was visible, unless documents have filled its 16 MB."""
    now: int
    """Position of the database's newest operation when the server replied."""


class _Slice(NamedTuple):
    """A part of a reply that becomes a Batch when it is read."""

    decode: Callable[[], list[Document]]
    token: Document | None
    """None: the token of the last event."""
    drained: bool
    now: int


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
        evaluated: bool = False,
    ) -> None:
        """:param after: the position after which the stream begins
        :param stages: the stages that follow ``$changeStream`` (``pipelines``)
        :param options: options of ``$changeStream``, such as fullDocument
        :param ahead: in a backlog, request the next reply while the caller works on this one, and return it in slices
        :param evaluated: mongod evaluates the images: they keep their exact BSON, and slices are larger
        """
        self._source = source
        self._collection = collection
        self._stages = stages
        self._matches = [stage for stage in stages if "$match" in stage]
        self._options = options or {}
        self._pace = Pace(batch_size)
        self._asked = batch_size  # batchSize of the command whose reply comes next
        self._reads_ahead = ahead
        self._slice_size = raw_batch.EVALUATED if evaluated else raw_batch.SLICE
        self._decode: Callable[[bytes], list[Document]] = raw_batch.exact_events if evaluated else raw_batch.documents
        self._codec: CodecOptions[Any] = raw_batch.RAW if evaluated else CODEC
        self._ahead: _Ahead | None = None
        self._buffered: deque[_Slice] = deque()  # slices of the newest reply
        self._session: ClientSession | None = None
        self._pin = source.pin()
        self._id = 0
        self._replica_set_id = source.replica_set_id
        self._namespace = ""
        self.reopen_after(after)

    @property
    def is_open(self) -> bool:
        """Whether the stream is open. If it is not, the next read opens it, which can take long."""
        return bool(self._id or self._buffered)

    @property
    def has_buffered(self) -> bool:
        """Whether the next read returns events without a request."""
        return bool(self._buffered)

    def reopen_after(self, after: int) -> None:
        """Continue after a position: at the start, and when an invalidate event has ended the stream."""
        self._drop()
        self._resume_option: Document = {"startAtOperationTime": position.to_timestamp(after + 1)}
        self._begin = f"{after + 1:016X}"

    def widen(self, match: Document) -> None:
        """Continue at the same position in the stream of the database.

        :param match: the $match for the events that belong to this stream
        """
        self._collection = None
        self._stages = [match, *self._stages]
        self._matches = [match]

    def read(self, wait_ms: int = AWAIT_MS) -> Batch:
        """Return the next batch, or an empty one after ``wait_ms`` milliseconds.

        Raises SourceError. After SourceUnavailable the next call resumes at the same token. After TokenUnfit, a new
        cursor may still read the position by its cluster time, once it is certain that the database is the same.
        """
        try:
            if not self._buffered:
                self._take(self._receive(wait_ms))
            one = self._buffered.popleft()
            events = [change_event(document) for document in one.decode()]
        except (InvalidBSON, MemoryError) as error:
            self._drop()
            if is_scarcity(error):
                raise SourceUnavailable(f"out of memory while reading a change stream: {SCARCITY_HINT}") from error
            raise EventUnreadable(f"bytes that are not valid BSON: {one_line(error)}") from error
        except PyMongoError as error:
            is_primary = self._pin.is_primary
            self._drop()
            classified = classify(error)
            if isinstance(classified, SourceTimeout):
                self._pace.late(busy=classified.busy)
            if isinstance(classified, ResumeLost) and not is_primary:
                # A recently synced member, or one with a smaller oplog: the primary may have more history.
                self._pin = Pin()
                raise SourceUnavailable(f"{classified} (on a secondary; asking the primary)") from error
            if isinstance(classified, TokenUnfit) and "resumeAfter" not in self._resume_option:
                classified = ResumeLost(str(classified))  # the oplog does not have its cluster time either
            raise classified from error
        token = one.token or events[-1].token
        self._resume_option = {"resumeAfter": token}
        if not events and resume_token.time_text(token) == self._begin:
            # Opened by time, mongod returns the token of that time before it has read the events of that time.
            token = resume_token.at(int(self._begin, 16) - 1)
        return Batch(events, token, one.drained, one.now)

    def read_without_documents(self) -> Batch:
        """Return the next few events without their documents, after EventUnreadable, which does not name the event."""
        with closing(
            ChangeCursor(self._source, self._collection, 0, [*self._matches, ENVELOPE_ONLY], {}, FEW_EVENTS)
        ) as few:
            few._resume_option = self._resume_option
            batch = few.read()
        self._resume_option = {"resumeAfter": batch.token}
        return batch

    def close(self) -> None:
        """End the cursor on the server, and a request of it that is running. Never raises."""
        kill_cursor(lambda command: self._source.read(command, self._pin), self._namespace, self._id)
        self._drop()

    def _receive(self, wait_ms: int) -> Document | RawBSONDocument:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return ahead.reply()
        return self._get_more(wait_ms, self._codec) if self._id else self._open()

    def _take(self, reply: Document | RawBSONDocument) -> None:
        """Buffer the events of a reply, and request the next reply ahead if there is a backlog."""
        now = position.of_timestamp(reply["operationTime"])
        if isinstance(reply, RawBSONDocument):
            raw = bytes(reply["cursor"].raw)
            cursor, length, parts = raw_batch.split(raw, self._slice_size)
            drained = length < self._asked and len(raw) < _FULL_REPLY_BYTES
            decoders = [partial(self._decode, part) for part in parts]
        else:
            cursor = reply["cursor"]
            events: list[Document] = cursor["nextBatch"] if "nextBatch" in cursor else cursor["firstBatch"]
            drained = (
                len(events) < self._asked and sum([len(event["_id"]["_data"]) for event in events]) < _FULL_REPLY_BYTES
            )
            decoders = [partial(list[Document], events)]
        self._id = cursor["id"]
        if self._reads_ahead and self._id and not drained:
            self._ahead = _Ahead(partial(self._get_more, AT_ONCE_MS, raw_batch.RAW))
        *others, last = decoders
        self._buffered.extend(_Slice(decode, None, False, now) for decode in others)
        self._buffered.append(_Slice(last, cursor["postBatchResumeToken"], drained, now))

    def _open(self) -> Document | RawBSONDocument:
        self._source.check_replica_set(
            self._replica_set_id
        )  # another replica set would accept the token without an error
        self._session = self._session or self._source.client.start_session(causal_consistency=False)
        # With an _id of kilobytes, a batch and the token after it may exceed the largest reply. A getMore then fails
        # with error 10334 (EventUnreadable), but an aggregate closes the connection, so it asks for few events.
        self._asked = min(self._pace.size, FEW_EVENTS)
        command = {
            "aggregate": self._collection or 1,
            "pipeline": [{"$changeStream": {**self._options, **self._resume_option}}, *self._stages],
            "cursor": {"batchSize": self._asked},
        }
        self._wait_for_member()
        seconds = self._pace.seconds
        reply: Document = self._source.read(command, self._pin, self._session, self._codec, seconds=seconds)
        self._namespace = collection_of(reply["cursor"])
        return reply

    def _get_more(self, wait_ms: int, codec: CodecOptions[Any]) -> Any:
        # The driver's deadline applies: pymongo.timeout would replace maxTimeMS, which is the wait for events here.
        self._asked = self._pace.size
        command = {
            "getMore": Int64(self._id),
            "collection": self._namespace,
            "batchSize": self._asked,
            "maxTimeMS": wait_ms,
        }
        begun = time.monotonic()
        reply = self._source.read(command, self._pin, self._session, codec)
        self._pace.in_time(time.monotonic() - begun)
        return reply

    def _wait_for_member(self) -> None:
        """Wait until a secondary has everything that was read before: a stream cannot start in the member's future."""
        if self._pin.is_primary:
            return
        token: Document | None = self._resume_option.get("resumeAfter")
        after = (
            position.of_timestamp(self._resume_option["startAtOperationTime"]) - 1
            if token is None
            else resume_token.position_of(token)
        )
        command = {
            "find": self._collection or "zmsd",  # a collection that does not exist serves as well
            "projection": {"_id": 1},
            "limit": 1,
            "singleBatch": True,
            "readConcern": {"level": "majority", "afterClusterTime": position.to_timestamp(after)},
        }
        self._source.read(command, self._pin, self._session, seconds=_MEMBER_WAIT_SECONDS)

    def _drop(self) -> None:
        if self._ahead is not None:
            self._ahead.join()  # the thread uses the session
            self._ahead = None
        self._buffered.clear()
        self._id = 0
        self._pin = self._source.pin()
        if self._session is not None:
            self._session.end_session()
            self._session = None


class _Ahead(Thread):
    """Request the next reply of a backlog, so that mongod and the caller work at the same time (bench/README.rst)."""

    def __init__(self, get_more: Callable[[], RawBSONDocument]) -> None:
        super().__init__(name="ahead", daemon=True)
        self._get_more = get_more
        self._reply: RawBSONDocument | None = None
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._reply = self._get_more()
        except Exception as error:  # ``reply`` raises it
            self._error = error

    def reply(self) -> RawBSONDocument:
        """Wait for the reply and return it. Raises the error of the getMore."""
        self.join()
        if self._error is not None:
            raise self._error
        assert self._reply is not None
        return self._reply
