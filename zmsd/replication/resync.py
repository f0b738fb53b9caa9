"""Resync: reread a table where a change event alone does not show how its rows change.

There are three such events: a collection is dropped, a collection is renamed (the old name is empty, and the rows of
the new one have not been sent), and a change comes without the document before although a table's rows depend on it.
The table is emptied and filled again, in the transaction of the event.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from zmsd.bson_types import Document
from zmsd.log import kv
from zmsd.mongodb.events import OF_DOCUMENTS, ChangeEvent
from zmsd.replication.encoder import Computed, Encoder, TableEncoder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SnapshotReader:
    """How a resync reads MongoDB."""

    now: Callable[[], int]
    """Return the position of the database now."""
    documents: Callable[[str, int], Iterator[list[Document]]]
    """(collection, position) -> all its documents at that position, in batches."""
    evaluate: Callable[[str, Sequence[Document], Iterable[str]], Computed]
    """(collection, documents, tables) -> what mongod computes for them."""
    shards: Callable[[], Iterable[str]]
    """Return the names of all shards (``zero_0``) that have ever got an initial sync."""


class Resync:
    """Owned by one thread."""

    def __init__(
        self, encoder: Encoder, reader: SnapshotReader, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        """:param on_progress: called for each batch of documents that was read"""
        self._encoder = encoder
        self._reader = reader
        self._on_progress = on_progress
        self._resynced_to: int | None = None

    def take_position(self) -> int | None:
        """Return the position up to which a table was reread since the last call, if it is ahead of the stream."""
        position, self._resynced_to = self._resynced_to, None
        return position

    def frames(self, event: ChangeEvent, at: int) -> Iterator[list[bytes]]:
        """Yield the messages of an event, in lists of bounded length.

        :param at: the event's position
        """
        if event.kind in OF_DOCUMENTS:
            for table in self._encoder.tables.get(event.collection or "", ()):
                if at > table.included_to:
                    if table.rows.can_apply(event):
                        yield self._encoder.changes(table, event)
                    else:
                        yield from self._reread_now(table, event.collection or "")
        elif event.kind in ("drop", "rename"):
            tables = {name: self._stale(name, at) for name in (event.collection, event.target) if name}
            yield self._encoder.truncate(table for stale in tables.values() for table in stale)
            if event.target:
                yield from self._reread(event.target, at, tables[event.target])

    def system_frames(self, event: ChangeEvent, at: int) -> Iterator[tuple[str, bytes]]:
        """Yield (shard, message) of an event for zero-cache's own tables.

        :param at: the event's position
        """
        if event.kind in OF_DOCUMENTS:
            yield from self._encoder.system_changes(event)
        elif event.kind in ("drop", "rename"):
            tables = self._encoder.system_tables
            for name in sorted(tables.keys() & {event.collection, event.target}):
                yield from tables[name].emptied(self._reader.shards())
            if event.target in tables:
                for documents in self._reader.documents(event.target, at):
                    self._on_progress()
                    for document in documents:
                        yield from tables[event.target].changes(ChangeEvent({}, "insert", after=document))

    def _stale(self, collection: str, at: int) -> list[TableEncoder]:
        return [table for table in self._encoder.tables.get(collection, ()) if at > table.included_to]

    def _reread_now(self, table: TableEncoder, collection: str) -> Iterator[list[bytes]]:
        """Empty a table and fill it with its rows as they are now.

        The table has all changes up to now then, so its events are passed over until that position.
        """
        now = self._reader.now()
        log.warning(kv("table resync", table=table.name, reason="a change came without the document before"))
        table.include(now)
        self._resynced_to = now
        yield self._encoder.truncate([table])
        yield from self._reread(collection, now, [table])

    def _reread(self, collection: str, at: int, tables: list[TableEncoder]) -> Iterator[list[bytes]]:
        if tables:
            names = [table.name for table in tables]
            for documents in self._reader.documents(collection, at):
                self._on_progress()
                yield self._encoder.inserts(documents, self._reader.evaluate(collection, documents, names), tables)
