"""The first copy: all tables at one position, as one Zero transaction, in constant memory."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event

from zmsd.feed import position
from zmsd.feed.copy import Scan, prefetched
from zmsd.feed.feed import DatabaseFeed
from zmsd.log import kv
from zmsd.stream import protocol
from zmsd.stream.hub import Hub

log = logging.getLogger(__name__)

_REPORT = 10.0
"""Seconds between progress lines in the log."""


@dataclass
class Progress:
    """How far a copy is; read by other threads."""

    collection: str = ""
    documents: int = 0
    """Read so far."""
    estimated: int = 0
    """In all collections, roughly."""
    rows: int = 0
    """Sent so far."""
    started: float = 0.0
    """Monotonic seconds."""

    def line(self) -> kv:
        seconds = max(time.monotonic() - self.started, 0.001)
        rate = self.documents / seconds
        left = max(self.estimated - self.documents, 0)
        return kv(
            "copying",
            collection=self.collection,
            documents=f"{self.documents}/~{self.estimated}",
            rows=self.rows,
            rows_per_second=round(self.rows / seconds),
            eta_seconds=round(left / rate) if rate else None,
        )


class Snapshot:
    """One copy for one session. For its thread."""

    def __init__(self, hub: Hub, app: str, shard: int, stop: Event) -> None:
        self.progress = Progress(started=time.monotonic())
        self._hub = hub
        self._app = app
        self._shard = shard
        self._stop = stop
        self.at = hub.source.operation_time()
        self.watermark = self._above_the_last_one()
        self.stream_from = self.watermark
        """Where the stream goes on: later than ``watermark`` when changes were replayed into the copy."""

    def frames(self) -> Iterator[bytes]:
        """The whole transaction, from begin to commit, in chunks."""
        hub, encoder = self._hub, self._hub.encoder()
        shard_name = f"{self._app}_{self._shard}"
        yield protocol.begin(self.watermark) + b"".join(self._tables()) + self._permissions()
        watched = sorted(hub.watched.items())
        scans = [Scan(hub.source, name, wanted.fields, self.at, self._stop) for name, wanted in watched]
        self.progress.estimated = sum(scan.estimate() for scan in scans)
        shard_tables = {table.collection: table for table in hub.shard_tables}
        reported = time.monotonic()
        for scan in scans:
            self.progress.collection = scan.collection
            for documents in prefetched(scan, self._stop):
                frames = encoder.copied(scan.collection, documents)
                if scan.collection in shard_tables:
                    frames += shard_tables[scan.collection].copied(shard_name, documents)
                self.progress.documents += len(documents)
                self.progress.rows += len(frames)
                if time.monotonic() - reported >= _REPORT:
                    reported = time.monotonic()
                    log.info(self.progress.line())
                yield b"".join(frames)
        if not all(scan.exact for scan in scans):
            yield from self._replayed(shard_name)
        # The newest change in it is as old as its position.
        yield protocol.commit(self.watermark, position.seconds(self.at) * 1000)

    def _replayed(self, shard_name: str) -> Iterator[bytes]:
        """The changes since the position, because some documents were read later than at it."""
        end = self._hub.source.operation_time()
        log.info(kv("replaying the changes since the copy began", seconds=position.seconds(end - self.at)))
        encoder = self._hub.encoder()
        with DatabaseFeed(self._hub.source, self._hub.watched, self.at, self._stop) as feed:
            # To the end of a transaction, at or beyond the end of the copy.
            while feed.progress < end:
                pieces = feed.read()
                for entry in encoder.entries(pieces.pieces) if pieces else ():
                    yield entry.frames + (entry.shard_frames or {}).get(shard_name, b"")
            self.stream_from = position.watermark(feed.progress)

    def _tables(self) -> Iterator[bytes]:
        for spec, types in protocol.required_tables(self._app, self._shard):
            yield protocol.create_table(spec, types)
        for table in self._hub.catalog.tables:
            yield protocol.create_table(table.spec)

    def _permissions(self) -> bytes:
        messages = protocol.TableMessages(f"{self._app}.permissions", ("lock",))
        value = self._hub.permissions
        text = None if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        digest = None if text is None else json.dumps(hashlib.sha256(text.encode()).hexdigest()[:32])
        row = f'{{"permissions":{protocol.json_column(value)},"hash":{digest or "null"},"lock":true}}'
        return protocol.frame(f"{messages.insert}{row}}}]")

    def _above_the_last_one(self) -> str:
        """The watermark of this copy: its position's, but above the one that the shard had from an earlier copy."""
        known = self._hub.store.shard(self._app, self._shard)
        mark = position.watermark(self.at)
        if known is None or known.replica_version < mark:
            return mark
        at, minor = position.parse(known.replica_version)
        if at > self.at:
            log.warning(kv("the database's time is behind an earlier copy's", earlier=known.replica_version, now=mark))
            return mark
        return position.watermark(self.at, minor + 1)
