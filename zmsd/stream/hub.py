"""Hub: what all sessions share, and where each of them finds the changes after its place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Condition, Event
from typing import Any, Protocol

from zmsd.catalog.catalog import Catalog, Table
from zmsd.errors import ResumeLost
from zmsd.feed import position
from zmsd.feed.collection import Watched
from zmsd.feed.copy import Scan, prefetched
from zmsd.feed.feed import DatabaseFeed
from zmsd.feed.source import Document, Source
from zmsd.log import kv
from zmsd.rows.computed import Evaluator, follows_from_id
from zmsd.rows.rejects import Rejects
from zmsd.stream.changelog import ChangeLog, Entry, Tail
from zmsd.stream.encoder import Encoder, Reading
from zmsd.stream.shards import ShardTable
from zmsd.stream.tables import used_fields
from zmsd.watermarks.store import WatermarkStore

log = logging.getLogger(__name__)


class Readiness:
    """Whether the feed runs, and if not, why: what ``/readyz`` says and new sessions wait for."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._reason: str | None = "starting"

    @property
    def reason(self) -> str | None:
        """None when ready."""
        return self._reason

    def set(self, reason: str | None) -> None:
        with self._changed:
            self._reason = reason
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._reason is None, seconds)


class Changes(Protocol):
    """Entries in order, from the log or from a private feed."""

    def take(self, rows: int, size: int, timeout: float) -> Sequence[Entry]: ...

    def close(self) -> None: ...


@dataclass
class Hub:
    """One for the process. Its methods may be called from any thread."""

    source: Source
    catalog: Catalog
    store: WatermarkStore
    log: ChangeLog
    readiness: Readiness
    rejects: Rejects
    shard_tables: Sequence[ShardTable] = ()
    permissions: Any = None
    """The application's permissions, for the row that zero-cache wants; None for none."""
    private_feeds: int = 4
    stop: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self._private = BoundedSemaphore(self.private_feeds)
        by_collection: dict[str, list[Table]] = {}
        for table in self.catalog.tables:
            if not table.mapping.plain:
                by_collection.setdefault(table.mapping.collection, []).append(table)
        run = self.source.run
        self._evaluators = {name: Evaluator(run, tables, self.rejects) for name, tables in by_collection.items()}

    @property
    def watched(self) -> dict[str, Watched]:
        """Every collection that is read, and what is wanted of it."""
        used = used_fields(self.catalog, self.shard_tables)
        needing = {table.mapping.collection for table in self.catalog.tables if not follows_from_id(table)}
        needing |= {table.collection for table in self.shard_tables}
        return {name: Watched(used[name], self._evaluators.get(name), name in needing) for name in used}

    def encoder(self) -> Encoder:
        reading = Reading(self.source.operation_time, self._documents)
        return Encoder(self.catalog, self.rejects, self.shard_tables, self._evaluators, reading)

    def check_place(self, place: str) -> None:
        """Raises ResumeLost where a watermark cannot be one of this database's history."""
        known = self.store.valid_from()
        if known is not None and place < known[0]:
            raise ResumeLost(known[1])
        now = self.source.operation_time()
        if position.parse(place)[0] > now:
            raise ResumeLost(
                f"watermark {place} is later than the database's own time {position.watermark(now)}: "
                "this is another database, or an older state of it was restored"
            )

    def changes(self, place: str, give_up: Callable[[], bool]) -> Changes:
        """The changes after a watermark. Raises ResumeLost.

        :param give_up: asked now and then while waiting for one of the private feeds
        """
        self.check_place(place)
        return self.log.tail(place) or self._catch_up(place, give_up)

    def _catch_up(self, place: str, give_up: Callable[[], bool]) -> Changes:
        if not self._private.acquire(blocking=False):
            log.info(kv("waiting for a private feed", place=place, limit=self.private_feeds))
            while not self._private.acquire(timeout=1.0):
                if give_up():
                    raise ResumeLost("gave up waiting")
        return CatchUp(self, place, self._private.release)

    def _documents(self, collection: str, at: int) -> Iterator[list[Document]]:
        return prefetched(Scan(self.source, collection, self.watched[collection].fields, at, self.stop), self.stop)


class CatchUp:
    """A private feed from a place that the log does not reach, until it meets the log. For one thread."""

    def __init__(self, hub: Hub, place: str, release: Callable[[], None]) -> None:
        self._hub = hub
        self._release: Callable[[], None] | None = release
        self._tail: Tail | None = None
        self._encoder = hub.encoder()
        self._feed = DatabaseFeed(hub.source, hub.watched, position.parse(place)[0])
        log.info(kv("catching up", place=place, log_head=hub.log.head))

    def take(self, rows: int, size: int, timeout: float) -> Sequence[Entry]:
        """As Tail.take; ``rows`` and ``size`` bound nothing here but by the batches of the feed."""
        if self._tail is not None:
            return self._tail.take(rows, size, timeout)
        pieces = self._feed.read()
        if pieces is None:
            return ()
        entries = self._encoder.entries(pieces.pieces)
        if not pieces.pieces or pieces.pieces[-1].last:
            self._tail = self._hub.log.tail(position.watermark(pieces.progress))
            if self._tail is not None:
                log.info(kv("caught up", place=position.watermark(pieces.progress)))
                self.close()
        return entries

    def close(self) -> None:
        self._feed.close()
        if self._release is not None:
            self._release()
            self._release = None
