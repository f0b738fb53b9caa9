"""CopyTransaction: tables at one position, sent as one Zero transaction in constant memory."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from threading import Event
from typing import Any, ClassVar

from zmsd import position
from zmsd.log import kv
from zmsd.mongodb.snapshot_scan import prefetched
from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.catch_up import changes_between
from zmsd.retry import retry_while_unavailable
from zmsd.rows.changes import RowChange
from zmsd.watermarks.base import CopyRecord
from zmsd.zero import protocol

log = logging.getLogger(__name__)

STALLED_SECONDS = 10.0
"""Seconds without a document after which the remaining time counts as unknown."""
_REPORT_INTERVAL_SECONDS = 10.0
"""Seconds between progress lines in the log."""


@dataclass
class CopyProgress:
    """The progress of a copy transaction. The session's thread writes it, any thread may read it."""

    collection: str = ""
    """The collection that is being read."""
    documents: int = 0
    """Documents read so far."""
    estimated: int = 0
    """Estimated number of documents in all collections."""
    rows: int = 0
    """Rows sent so far."""
    started: float = 0.0
    """Monotonic seconds."""
    moved: float = 0.0
    """Monotonic seconds when documents were last read."""

    @property
    def eta_seconds(self) -> int | None:
        """Return the estimated remaining time in seconds; None if unknown, such as while no document arrives."""
        now = time.monotonic()
        if not self.documents or now - self.moved > STALLED_SECONDS:
            return None
        rate = self.documents / max(now - self.started, 0.001)
        return round(max(self.estimated - self.documents, 0) / rate)

    def ahead_of(self, rows_per_second: int) -> float:
        """Return by how many seconds the copy is ahead of a speed, of documents or rows, whichever are more.

        :param rows_per_second: 0 for no limit
        """
        if not rows_per_second:
            return 0.0
        return max(self.started + max(self.documents, self.rows) / rows_per_second - time.monotonic(), 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for ``/status.json`` and the log."""
        seconds = max(time.monotonic() - self.started, 0.001)
        return {
            "collection": self.collection,
            "documents": self.documents,
            "estimated": self.estimated,
            "rows": self.rows,
            "rows_per_second": round(self.rows / seconds),
            "seconds": round(seconds),
            "eta_seconds": self.eta_seconds,
        }


class CopyTransaction:
    """Base of InitialSync and SchemaChange. Session's thread only, except ``progress``."""

    name: ClassVar[str]
    """The words for it in the log."""

    def __init__(self, source: Source, active: ActivePublication, app: str, shard: int, stop: Event) -> None:
        """Take the position at which the tables are read (invariant 3). Waits while MongoDB is unavailable.

        :param stop: ends the wait and the scans; then the methods raise Stopped
        """
        self.progress = CopyProgress(started=time.monotonic())
        self.active = active
        self.at = retry_while_unavailable(self.name, source.operation_time, stop)
        """The position of the tables."""
        self.watermark = position.watermark(self.at)
        """The watermark of the commit."""
        self._stream_from = self.watermark
        self._oldest_ms = position.seconds(self.at) * 1000  # commit time of the oldest change in it
        self._source = source
        self._app = app
        self._shard = shard
        self._rows_per_second = 0
        self._shard_name = f"{app}_{shard}"
        self._stop = stop

    def frames(self) -> Iterator[bytes]:
        """Yield the complete transaction in chunks, from begin to commit. The last chunk contains the commit.

        Raises SourceError and Stopped, and ResumeLost if the changes that it needs are lost.
        """
        raise NotImplementedError

    @property
    def record(self) -> CopyRecord:
        """Return what the store must record before the commit is sent (invariant 4)."""
        return CopyRecord(self.watermark, self._stream_from, self.active.fingerprint)

    def _rows(self, tables: Collection[str], system_tables: Collection[str]) -> Iterator[bytes]:
        """Yield insert messages for all rows of some tables at the position.

        MongoDB keeps a snapshot for ``minSnapshotHistoryWindowInSeconds``, five minutes by default
        (https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/). A longer scan continues with newer
        reads, and then the changes since the position follow, so that the rows are consistent again at the end.
        """
        encoder = self.active.encoder()
        chosen = {
            collection: [table for table in of_collection if table.name in tables]
            for collection, of_collection in encoder.tables.items()
        }
        shards = {table.collection: table for table in self.active.shard_tables if table.kind in system_tables}
        names = sorted(shards.keys() | {name for name, found in chosen.items() if found})
        scans = [self.active.scan(name, self.at) for name in names]
        self.progress.estimated = sum(retry_while_unavailable(self.name, scan.estimate, self._stop) for scan in scans)
        reported = time.monotonic()
        for scan in scans:
            self.progress.collection = scan.collection
            for documents in prefetched(scan, self._stop):
                of_collection = chosen.get(scan.collection, [])
                results = self.active.evaluate(scan.collection, documents, [table.name for table in of_collection])
                frames = encoder.inserts(documents, results, of_collection)
                if scan.collection in shards:
                    frames += shards[scan.collection].inserts(self._shard_name, documents)
                self.progress.documents += len(documents)
                self.progress.rows += len(frames)
                self.progress.moved = time.monotonic()
                if time.monotonic() - reported >= _REPORT_INTERVAL_SECONDS:
                    reported = time.monotonic()
                    log.info(kv(f"{self.name} progress", **self.progress.as_dict()))
                yield b"".join(frames)
                self._stop.wait(self.progress.ahead_of(self._rows_per_second))
        if not all(scan.exact for scan in scans):
            end = retry_while_unavailable(self.name, self._source.operation_time, self._stop)
            log.info(kv("replaying changes since the scan began", seconds=position.seconds(end - self.at)))
            yield from self._changes(self.at, end, {})
            self._stream_from = position.watermark(end)

    def _changes(self, after: int, end: int, included_to: Mapping[str, int]) -> Iterator[bytes]:
        """Yield the data messages of the changes between two positions.

        :param included_to: table -> position up to which its changes are left out
        """
        builder = self.active.entry_builder(included_to=included_to)
        for entry in changes_between(self._source, self.active.watched, builder, after, end, self._stop):
            self._oldest_ms = min(self._oldest_ms, entry.commit_ms)
            yield entry.frames + (entry.shard_frames or {}).get(self._shard_name, b"")

    def _permissions(self, tag: str) -> bytes:
        """Return the message for the row of zero-cache's ``permissions`` table.

        :param tag: ``insert`` or ``update``
        """
        value = self.active.publication.permissions
        messages = protocol.TableMessages(f"{self._app}.permissions", ("lock",))
        text = None if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        digest = None if text is None else json.dumps(hashlib.sha256(text.encode()).hexdigest()[:32])
        row = f'{{"permissions":{protocol.json_column(value)},"hash":{digest or "null"},"lock":true}}'
        return messages.frame(RowChange(tag, None, row))
