"""Snapshot scans: read the documents of a collection as they were at one position.

Read concern ``snapshot`` with ``atClusterTime`` works on any connection, so all collections can be read at the same
position (https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/). The server keeps such a snapshot for
300 s by default (``minSnapshotHistoryWindowInSeconds``). A scan that takes longer, or whose collection's catalog entry
changes meanwhile, continues after its last ``_id`` with majority reads, and ``Scan.exact`` is false: the caller then
replays the changes since the position.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from threading import Event

from bson.errors import InvalidBSON
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure, PyMongoError

from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import SnapshotGone, SourceRefused, SourceTimeout, SourceUnavailable, Stopped
from zmsd.log import kv
from zmsd.mongodb import raw_batch
from zmsd.mongodb.client import classified_errors, unwrap_dbrefs
from zmsd.mongodb.cursors import collection_of, kill_cursor
from zmsd.mongodb.errors import (
    SNAPSHOT_GONE,
    SNAPSHOT_RETRY,
    classify,
    code_of,
    message_of,
    one_line,
    undecodable,
)
from zmsd.mongodb.members import Pin
from zmsd.mongodb.pipelines import Fields
from zmsd.mongodb.producer import Producer
from zmsd.mongodb.source import Source
from zmsd.pace import Pace
from zmsd.retry import REFUSED_WAIT_SECONDS, RetryLog, backoff

log = logging.getLogger(__name__)

BATCH = 1000
"""Documents in a batch."""
_PREFETCHED_BATCHES = 2
_NO_INDEX = 2  # BadValue: the hint names an index that is not there


class Scan:
    """Reads one collection in the order of ``_id``: an iterator over batches, for one thread.

    A batch is a list of slices for ``documents``, which is thread-safe. After a transient error the scan continues
    after the last ``_id`` that it read.
    """

    def __init__(
        self,
        source: Source,
        collection: str,
        fields: Fields,
        at: int,
        *,
        evaluated: bool = False,
        exact_only: bool = False,
        after: Document | None = None,
    ) -> None:
        """:param at: the position at which to read
        :param evaluated: mongod evaluates the documents: they keep their exact BSON, and slices are larger
        :param exact_only: raise SnapshotGone instead of continuing with newer reads
        :param after: a document after whose ``_id`` to begin
        """
        self.collection = collection
        self.exact = True
        """Whether everything that was read so far was read at the position."""
        self._source = source
        self._fields = fields
        self._at = at
        self._slice_size = raw_batch.EVALUATED if evaluated else raw_batch.SLICE
        self._decode = raw_batch.exact_documents if evaluated else raw_batch.documents
        self._exact_only = exact_only
        self._after = after
        self._ended = Event()
        self._pace = Pace(BATCH)
        self._last: bytes | None = None  # the slice with the newest document, once there is one
        self._backoff = backoff()
        self._retry_log = RetryLog(log, f"scan of {collection}")

    def estimate(self) -> int:
        """Return about how many documents there are, from the collection's metadata. Raises SourceError."""
        with classified_errors():
            if not self._is_collection():
                return 0
        return int(self._source.command({"count": self.collection})["n"])

    def __iter__(self) -> Generator[list[bytes], None, None]:
        while not self._ended.is_set():
            try:
                if (yield from self._read_on()):
                    return
            except PyMongoError as error:
                self._retry(error)
            except (InvalidBSON, MemoryError) as error:
                raise undecodable(self.collection, error) from error

    def documents(self, one: bytes) -> list[Document]:
        """Return the documents of a slice. Raises SourceError if a document cannot be decoded. Thread-safe."""
        try:
            return unwrap_dbrefs(self._decode(one))
        except (InvalidBSON, MemoryError) as error:
            raise undecodable(self.collection, error) from error

    def end(self) -> None:
        """Stop the scan early. Thread-safe."""
        self._ended.set()

    def _read_on(self) -> Generator[list[bytes], None, bool]:
        """Read from the last ``_id`` to the end. Return False if only one batch was read, because the server is slow.

        ``$gt`` in an expression compares values of all BSON types, while ``$gt`` in a query only matches values of the
        operand's type (https://www.mongodb.com/docs/manual/reference/operator/query/gt/). Both use the index.
        """
        size, slow = self._pace.size, self._pace.is_slow
        command: Document = {"find": self.collection, "hint": {"_id": 1}, "sort": {"_id": 1}, "batchSize": size}
        if slow:  # otherwise the deadline would apply to all batches of the cursor together
            command["singleBatch"] = True
        if self._fields is not None:
            command["projection"] = dict.fromkeys(self._fields | {"_id"}, 1)
        last = self._after if self._last is None else self.documents(self._last)[-1]
        if last is not None:
            command["filter"] = {"$expr": {"$gt": ["$_id", {"$literal": last["_id"]}]}}
        if self.exact:
            command["readConcern"] = {"level": "snapshot", "atClusterTime": position.to_timestamp(self._at)}
        else:
            # Not older than the position: a secondary may lag, and only changes since the position are replayed.
            command["readConcern"] = {"level": "majority", "afterClusterTime": position.to_timestamp(self._at)}
        if not self._is_collection():
            return True
        pin = self._source.pin()
        with self._source.client.start_session(causal_consistency=False) as session:
            cursor, length, parts = self._ask(command, pin, session, self._pace.seconds if slow else None)
            if not self._is_collection():
                return True  # a view took the name meanwhile; the event that dropped the collection follows
            namespace = collection_of(cursor)
            try:
                while True:
                    if length:
                        self._last = parts[-1]
                        self._recovered()
                        yield parts
                    if not cursor["id"]:
                        return not slow or not length
                    more = {"getMore": cursor["id"], "collection": namespace, "batchSize": size}
                    cursor, length, parts = self._ask(more, pin, session)
            except GeneratorExit:
                kill_cursor(lambda end: self._source.read(end, pin, session), namespace, cursor["id"])
                raise

    def _is_collection(self) -> bool:
        """Return whether the name is a collection's: a view or a time series would be read once and never updated."""
        found = list(self._source.db.list_collections(filter={"name": self.collection}))
        return all(info.get("type", "collection") == "collection" for info in found)

    def _ask(
        self, command: Document, pin: Pin, session: ClientSession, seconds: float | None = None
    ) -> raw_batch.Split:
        """Run a command of the scan and return the parts of its reply.

        :param seconds: the deadline; None: the deadline of every request
        """
        begun = time.monotonic()
        reply = self._source.read(command, pin, session, raw_batch.RAW, seconds=seconds)
        self._pace.in_time(time.monotonic() - begun)
        return raw_batch.split(bytes(reply["cursor"].raw), self._slice_size)

    def _recovered(self) -> None:
        if self._retry_log.attempts:
            self._retry_log.recovered()
            self._backoff = backoff()

    def _retry(self, error: PyMongoError) -> None:
        """Wait for the next attempt, or raise an error that does not pass by waiting."""
        code = code_of(error)
        if code in SNAPSHOT_GONE and self._exact_only:
            mark = position.watermark(self._at)
            raise SnapshotGone(f"MongoDB no longer has {self.collection} as of {mark}: {classify(error)}") from error
        if code in SNAPSHOT_GONE and self.exact:
            log.info(kv("scan continues with majority reads", collection=self.collection, reason=str(classify(error))))
            self.exact = False
            return
        if code == _NO_INDEX and isinstance(error, OperationFailure):
            raise SourceRefused(f"cannot read {self.collection} in the order of _id: {message_of(error)}") from error
        classified = SourceUnavailable(one_line(error)) if code in SNAPSHOT_RETRY else classify(error)
        if not isinstance(classified, (SourceUnavailable, SourceRefused)):
            raise classified from error
        if isinstance(classified, SourceTimeout):
            self._pace.late(busy=classified.busy)
        self._retry_log.failed(str(classified))
        self._ended.wait(REFUSED_WAIT_SECONDS if isinstance(classified, SourceRefused) else next(self._backoff))


def prefetched(scan: Scan, stop: Event) -> Iterator[list[Document]]:
    """Yield the documents of a scan, which a thread of its own reads two batches ahead.

    mongod makes the next batch while the caller works on this one. Raises SourceError, and Stopped once ``stop`` is
    set, so that a part of a collection is never taken for all of it.
    """
    producer = Producer(f"scan-{scan.collection}", iter(scan), _PREFETCHED_BATCHES)
    producer.start()
    try:
        while not stop.is_set():
            for one in producer.channel.get(1.0) or ():
                yield scan.documents(one)
        raise Stopped
    except Stopped:
        if stop.is_set():
            raise
    finally:
        scan.end()
        producer.channel.close()
        producer.thread.join()
