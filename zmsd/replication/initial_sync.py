"""Copies: tables at one position, as one Zero transaction, in constant memory.

A Snapshot is a client's first copy. A Crossing takes a client that has an older edition to the newest one: the schema
changes, everything that happened since its place, and the rows of the tables that are new or made otherwise.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from threading import Event

from zmsd import position
from zmsd.errors import ResumeLost, SourceUnavailable
from zmsd.log import kv
from zmsd.mongodb.snapshot_scan import prefetched
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.hub import Hub
from zmsd.retry import retry_while_unavailable
from zmsd.rows.changes import RowChange
from zmsd.schema.publication import Publication, diff
from zmsd.watermarks.base import CopyRecord
from zmsd.zero import protocol

log = logging.getLogger(__name__)

_STALLED_SECONDS = 10.0
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
    moved: float = 0.0
    """Monotonic seconds: when documents were read last."""

    @property
    def eta_seconds(self) -> int | None:
        """Seconds that it will take yet; None while that is unknown, as where no document comes."""
        now = time.monotonic()
        if not self.documents or now - self.moved > _STALLED_SECONDS:
            return None
        rate = self.documents / max(now - self.started, 0.001)
        return round(max(self.estimated - self.documents, 0) / rate)

    def line(self) -> kv:
        seconds = max(time.monotonic() - self.started, 0.001)
        return kv(
            "copying",
            collection=self.collection,
            documents=f"{self.documents}/~{self.estimated}",
            rows=self.rows,
            rows_per_second=round(self.rows / seconds),
            eta_seconds=self.eta_seconds,
        )


class Copy:
    """What both kinds share. For one session's thread."""

    def __init__(self, hub: Hub, active: ActivePublication, app: str, shard: int, stop: Event) -> None:
        self.progress = Progress(started=time.monotonic())
        self.active = active
        self.at = retry_while_unavailable("copy", hub.source.operation_time, stop)
        self.watermark = position.watermark(self.at)
        self._stream_from = self.watermark
        self._oldest_ms = position.seconds(self.at) * 1000  # commit time of the oldest change in it
        self._hub = hub
        self._app = app
        self._shard = shard
        self._shard_name = f"{app}_{shard}"
        self._stop = stop

    def frames(self) -> Iterator[bytes]:
        """The whole transaction, from begin to commit, in chunks; the last one holds the commit."""
        raise NotImplementedError

    @property
    def record(self) -> CopyRecord:
        """What is to be kept of it before its commit is sent."""
        return CopyRecord(self.watermark, self._stream_from, self.active.fingerprint)

    def _rows(self, tables: Collection[str], shard_tables: Collection[str]) -> Iterator[bytes]:
        """Insert messages for all rows of some tables at the position, then what happened while they were read."""
        encoder = self.active.encoder()
        chosen = {
            collection: [table for table in of_collection if table.name in tables]
            for collection, of_collection in encoder.tables.items()
        }
        shards = {table.collection: table for table in self.active.shard_tables if table.kind in shard_tables}
        names = sorted(shards.keys() | {name for name, found in chosen.items() if found})
        scans = [self.active.scan(name, self.at) for name in names]
        self.progress.estimated = sum(retry_while_unavailable("copy", scan.estimate, self._stop) for scan in scans)
        reported = time.monotonic()
        for scan in scans:
            self.progress.collection = scan.collection
            for documents in prefetched(scan, self._stop):
                of_collection = chosen.get(scan.collection, [])
                results = self.active.evaluate(scan.collection, documents, [table.name for table in of_collection])
                frames = encoder.inserts(documents, results, of_collection)
                if scan.collection in shards:
                    frames += shards[scan.collection].copied(self._shard_name, documents)
                self.progress.documents += len(documents)
                self.progress.rows += len(frames)
                self.progress.moved = time.monotonic()
                if time.monotonic() - reported >= _REPORT:
                    reported = time.monotonic()
                    log.info(self.progress.line())
                yield b"".join(frames)
        if not all(scan.exact for scan in scans):
            end = retry_while_unavailable("copy", self._hub.source.operation_time, self._stop)
            log.info(kv("replaying the changes since the copy began", seconds=position.seconds(end - self.at)))
            yield from self._changes(self.at, end, {})
            self._stream_from = position.watermark(end)

    def _changes(self, after: int, end: int, copied_at: dict[str, int]) -> Iterator[bytes]:
        """Data messages of what happened between two positions.

        :param copied_at: tables whose changes up to a position are not wanted
        """
        builder = self.active.entry_builder()
        for tables in builder.encoder.tables.values():
            for table in tables:
                table.included_to = copied_at.get(table.name, table.included_to)
        for entry in self._hub.between(builder, self.active, after, end, self._stop):
            self._oldest_ms = min(self._oldest_ms, entry.commit_ms)
            yield entry.frames + (entry.shard_frames or {}).get(self._shard_name, b"")

    def _permissions(self, tag: str) -> bytes:
        value = self.active.publication.permissions
        messages = protocol.TableMessages(f"{self._app}.permissions", ("lock",))
        text = None if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        digest = None if text is None else json.dumps(hashlib.sha256(text.encode()).hexdigest()[:32])
        row = f'{{"permissions":{protocol.json_column(value)},"hash":{digest or "null"},"lock":true}}'
        return messages.frame(RowChange(tag, None, row))


class Snapshot(Copy):
    """The first copy."""

    def __init__(self, hub: Hub, active: ActivePublication, app: str, shard: int, stop: Event) -> None:
        super().__init__(hub, active, app, shard, stop)
        known = [record.copies[0] for replica, record in hub.store.replicas().items() if replica[:2] == (app, shard)]
        newest = max((first.watermark for first in known), default="")
        if newest >= self.watermark:
            self.watermark = self._stream_from = self._above(newest)

    def frames(self) -> Iterator[bytes]:
        required = protocol.required_tables(self._app, self._shard)
        created = [protocol.create_table(spec, types) for spec, types in required]
        created += [protocol.create_table(table.spec) for table in self.active.catalog.tables]
        rows = self._permissions("insert") + protocol.schema_versions_row(self._app)
        yield protocol.begin(self.watermark) + b"".join(created) + rows
        tables = {table.name for table in self.active.catalog.tables}
        yield from self._rows(tables, {table.kind for table in self.active.shard_tables})
        # The newest change in it is as old as its position.
        yield protocol.commit(self.watermark, position.seconds(self.at) * 1000)

    def _above(self, earlier: str) -> str:
        """A watermark above that of an earlier copy: zero-cache does not start again with the same one."""
        at, minor = position.parse(earlier)
        if at > self.at:
            log.warning(kv("the database's time is behind an earlier copy's", earlier=earlier, now=self.watermark))
            return self.watermark
        return position.watermark(self.at, minor + 1)


class Crossing(Copy):
    """From a place in an older edition to now, in the newest one."""

    def __init__(
        self,
        hub: Hub,
        active: ActivePublication,
        app: str,
        shard: int,
        stop: Event,
        place: str,
        old: Publication,
        recorded: str = "",
    ) -> None:
        """Raises ResumeLost where Zero cannot be told what has changed, SourceUnavailable before ``recorded``.

        :param recorded: watermark of the newest copy on record of the same replica. The schema change comes after it,
            so that every watermark of the replica has one publication.
        """
        super().__init__(hub, active, app, shard, stop)
        self._after = position.parse(place)[0]
        self.at = max(self.at, self._after)
        if recorded and position.parse(recorded)[0] > self.at:
            raise SourceUnavailable(f"the database's time is behind the last schema change, {recorded}")
        # Always with a minor: a change that another stream of the replica may have at this position has none.
        minors = [minor for at, minor in map(position.parse, filter(None, (place, recorded))) if at == self.at]
        self.watermark = self._stream_from = position.watermark(self.at, max(minors, default=0) + 1)
        self._diff = diff(old, active.publication)
        if self._diff.incompatible:
            reasons = "; ".join(self._diff.incompatible)
            reason = f"what is published has changed in a way that Zero cannot follow: {reasons}"
            raise ResumeLost(reason, "publication-incompatible")

    def frames(self) -> Iterator[bytes]:
        between = self._diff
        made = [protocol.drop_table(table.name) for table in between.dropped]
        made += [protocol.drop_column(change.new.name, c.name) for change in between.changed for c in change.dropped]
        made += [protocol.add_column(change.new.spec, c) for change in between.changed for c in change.added]
        made += [protocol.create_table(table.spec) for table in between.added]
        made += [protocol.TableMessages(t.name, t.spec.primary_key).truncate() for t in between.refilled]
        for spec, _ in protocol.required_tables(self._app, self._shard):
            if spec.name.rpartition(".")[2] in between.system_tables:
                made.append(protocol.TableMessages(spec.name, spec.primary_key).truncate())
        if between.permissions:
            made.append(self._permissions("update"))
        yield protocol.begin(self.watermark) + b"".join(made)
        afresh = {table.name for table in (*between.added, *between.refilled)}
        yield from self._changes(self._after, self.at, dict.fromkeys(afresh, self.at))
        yield from self._rows(afresh, between.system_tables)
        yield protocol.commit(self.watermark, self._oldest_ms)
