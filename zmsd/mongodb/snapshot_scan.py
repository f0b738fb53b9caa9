"""The documents of a collection at one position: read at that cluster time, on any connection, for all collections
alike.

Snapshot reads live 300 s on the server (minSnapshotHistoryWindowInSeconds). A scan that takes longer, or whose
collection's catalog entry changed meanwhile, goes on from its last ``_id`` with majority reads and says so in
``Scan.exact``: the caller then replays the changes since the position.
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
from zmsd.errors import SourceRefused, SourceTimeout, SourceUnavailable, Stopped
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
_PREFETCHED_BATCHES = 2
_NO_INDEX = 2  # BadValue: the hint names an index that is not there


class Scan:
    """Reads one collection in the order of ``_id``; an iterator over batches, for one thread. A batch is slices for
    ``documents``, which any thread may call.

    Through everything that heals it goes on from the last ``_id`` it read.
    """

    def __init__(
        self, source: Source, collection: str, fields: Fields, at: int, slice_size: int = raw_batch.SLICE
    ) -> None:
        """:param at: the position at which to read
        :param slice_size: documents in a slice
        """
        self.collection = collection
        self.exact = True
        """All that was read so far was read at the position."""
        self._source = source
        self._fields = fields
        self._at = at
        self._slice_size = slice_size
        self._over = Event()
        self._pace = Pace(BATCH)
        self._last: bytes | None = None  # the slice with the newest document, once there is one
        self._backoff = backoff()
        self._repeated = RetryLog(log, f"copy of {collection}")

    def estimate(self) -> int:
        """Roughly how many documents there are; from the collection's metadata."""
        with classified_errors():
            if not self._is_collection():
                return 0
        return int(self._source.command({"count": self.collection})["n"])

    def __iter__(self) -> Generator[list[bytes], None, None]:
        while not self._over.is_set():
            try:
                if (yield from self._read_on()):
                    return
            except PyMongoError as error:
                self._heal(error)
            except (InvalidBSON, MemoryError) as error:
                raise undecodable(self.collection, error) from error

    def documents(self, one: bytes) -> list[Document]:
        """Those of a slice."""
        try:
            return unwrap_dbrefs(raw_batch.documents(one))
        except (InvalidBSON, MemoryError) as error:
            raise undecodable(self.collection, error) from error

    def end(self) -> None:
        """Nobody wants the rest. Any thread."""
        self._over.set()

    def _read_on(self) -> Generator[list[bytes], None, bool]:
        """Read from the last ``_id`` to the end; returns False where a single batch was read.

        ``$gt`` in an expression goes on over all BSON types; the plain one would stay within one. Both walk the index.
        """
        size, slow = self._pace.size, self._pace.is_slow
        command: Document = {"find": self.collection, "hint": {"_id": 1}, "sort": {"_id": 1}, "batchSize": size}
        if slow:  # the deadline would also hold for all batches of the cursor together
            command["singleBatch"] = True
        if self._fields is not None:
            command["projection"] = dict.fromkeys(self._fields | {"_id"}, 1)
        if self._last is not None:
            command["filter"] = {"$expr": {"$gt": ["$_id", {"$literal": self.documents(self._last)[-1]["_id"]}]}}
        if self.exact:
            command["readConcern"] = {"level": "snapshot", "atClusterTime": position.to_timestamp(self._at)}
        else:
            # Not older than the position: a secondary may be behind it, and only changes since then are replayed.
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
        """Whether there may be rows to read: what a view or a time series gives never changes again."""
        found = list(self._source.db.list_collections(filter={"name": self.collection}))
        return all(info.get("type", "collection") == "collection" for info in found)

    def _ask(
        self, command: Document, pin: Pin, session: ClientSession, seconds: float | None = None
    ) -> raw_batch.Split:
        """:param seconds: the deadline, None for that of every request"""
        begun = time.monotonic()
        reply = self._source.read(command, pin, session, raw_batch.RAW, seconds=seconds)
        self._pace.in_time(time.monotonic() - begun)
        return raw_batch.split(bytes(reply["cursor"].raw), self._slice_size)

    def _recovered(self) -> None:
        if self._repeated.attempts:
            self._repeated.recovered()
            self._backoff = backoff()

    def _heal(self, error: PyMongoError) -> None:
        """Wait for another try, or raise the error that no waiting heals."""
        code = code_of(error)
        if code in SNAPSHOT_GONE and self.exact:
            log.info(kv("copy goes on with majority reads", collection=self.collection, reason=str(classify(error))))
            self.exact = False
            return
        if code == _NO_INDEX and isinstance(error, OperationFailure):
            raise SourceRefused(f"{self.collection} cannot be read in the order of _id: {message_of(error)}") from error
        fault = SourceUnavailable(one_line(error)) if code in SNAPSHOT_RETRY else classify(error)
        if not isinstance(fault, (SourceUnavailable, SourceRefused)):
            raise fault from error
        if isinstance(fault, SourceTimeout):
            self._pace.late(busy=fault.busy)
        self._repeated.failed(str(fault))
        self._over.wait(REFUSED_WAIT_SECONDS if isinstance(fault, SourceRefused) else next(self._backoff))


def prefetched(scan: Scan, stop: Event) -> Iterator[list[Document]]:
    """Yield the documents of a scan, which a thread of its own reads two batches ahead.

    mongod makes the next batch while the caller works on this one. Raises SourceError, and Stopped once ``stop`` is
    set, so that a part of a collection is never taken for all of it.
    """
    producer = Producer(f"copy-{scan.collection}", iter(scan), _PREFETCHED_BATCHES)
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
