"""Encoder: events in, entries of the change log out; each message is encoded once, whoever reads it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from zmsd.catalog.catalog import Catalog
from zmsd.feed import position
from zmsd.feed.lookup import BEFORE
from zmsd.feed.sequencer import Piece
from zmsd.feed.source import Document
from zmsd.log import kv
from zmsd.rows.computed import Evaluator
from zmsd.rows.rejects import Rejects
from zmsd.rows.values import milliseconds
from zmsd.stream.changelog import Entry
from zmsd.stream.shards import ShardTable
from zmsd.stream.tables import TableEncoder

log = logging.getLogger(__name__)

_ROWS = frozenset(("insert", "update", "replace", "delete"))


@dataclass(frozen=True, slots=True)
class Reading:
    """How an encoder reads what an event alone does not tell."""

    now: Callable[[], int]
    """The position of the database now."""
    documents: Callable[[str, int], Iterator[list[Document]]]
    """(collection, position) -> all its documents at that position, in batches."""


class Encoder:
    """For one catalog and one reader of a feed: it keeps the place inside a transaction that comes in parts."""

    def __init__(
        self,
        catalog: Catalog,
        rejects: Rejects,
        shards: Iterable[ShardTable],
        evaluators: Mapping[str, Evaluator],
        reading: Reading,
    ) -> None:
        """:param shards: the collections that hold zero-cache's own rows
        :param evaluators: of the collections with computed tables
        """
        self._reading = reading
        self._shards = {shard.collection: shard for shard in shards}
        self._evaluators = evaluators
        self.tables: dict[str, list[TableEncoder]] = {}
        for table in catalog.tables:
            self.tables.setdefault(table.mapping.collection, []).append(TableEncoder(table, rejects))
        self.rows: Counter[str] = Counter()
        """Row changes made so far, by table."""
        self.progress: Callable[[], None] = lambda: None
        """Called now and then while a whole collection is read."""
        self._begun = False

    def entry(self, piece: Piece) -> Entry | None:
        """The entry of a piece; None where nothing in it concerns a table."""
        return next(iter(self.entries([piece])), None)

    def entries(self, pieces: Iterable[Piece]) -> list[Entry]:
        """The same for a batch of pieces."""
        for tables in self.tables.values():
            for table in tables:
                table.begin_batch()
        return [entry for piece in pieces if (entry := self._entry(piece)) is not None]

    def _entry(self, piece: Piece) -> Entry | None:
        frames: list[bytes] = []
        by_shard: dict[str, list[bytes]] = {}
        for event in piece.events:
            collection = event["ns"].get("coll")
            if collection in self.tables or "to" in event:
                frames += self._frames(event, collection, piece.position)
            if collection in self._shards:
                for shard, data in self._shards[collection].changes(event):
                    by_shard.setdefault(shard, []).append(data)
        if piece.first:
            self._begun = False
        if not frames and not by_shard and not (piece.last and self._begun):
            return None
        self._begun = True
        return Entry(
            position.watermark(piece.position),
            commit_ms(piece),
            len(frames),
            b"".join(frames),
            piece.last,
            {shard: b"".join(data) for shard, data in by_shard.items()} or None,
        )

    def copied(
        self, collection: str, documents: Sequence[Document], tables: Iterable[TableEncoder] | None = None
    ) -> list[bytes]:
        """Insert messages of a collection's tables, or of some of them."""
        chosen = self.tables.get(collection, []) if tables is None else list(tables)
        evaluator = self._evaluators.get(collection)
        names = {table.name for table in chosen}
        computed = evaluator.evaluate(documents, only=names) if evaluator is not None else {}
        frames: list[bytes] = []
        for table in chosen:
            rows = table.copied(documents, computed.get(table.name))
            self.rows[table.name] += len(rows)
            frames += rows
        return frames

    def _frames(self, event: Document, collection: str, at: int) -> list[bytes]:
        kind = event["operationType"]
        if kind in _ROWS:
            frames: list[bytes] = []
            known = kind == "insert" or event.get(BEFORE) is not None or "beforeKnown" in event
            for table in self.tables[collection]:
                if at <= table.copied_at:
                    continue
                if not known and not table.follows_from_id:
                    frames += self._afresh(collection, table)
                    continue
                changes = table.changes(event) if known else table.changes_from_unknown(event)
                self.rows[table.name] += len(changes)
                frames += changes
            return frames
        if kind not in ("drop", "rename"):
            return []
        frames = [table.messages.truncate() for table in self.tables.get(collection, ())]
        if kind == "rename":
            target = event["to"]["coll"]
            frames += [table.messages.truncate() for table in self.tables.get(target, ())]
            frames += self._all(target, at, None)
        return frames

    def _afresh(self, collection: str, table: TableEncoder) -> list[bytes]:
        """A table whose change cannot be told without the document before: all its rows, as they are now.

        What happened up to then is in them already, so the table's events are passed over until that position.
        """
        now = self._reading.now()
        log.warning(kv("table copied afresh", table=table.name, reason="a change came without the document before"))
        table.copied_at = now
        return [table.messages.truncate(), *self._all(collection, now, [table])]

    def _all(self, collection: str, at: int, tables: list[TableEncoder] | None) -> Iterator[bytes]:
        if tables or self.tables.get(collection):
            for documents in self._reading.documents(collection, at):
                self.progress()
                yield from self.copied(collection, documents, tables)


def commit_ms(piece: Piece) -> int:
    """When MongoDB committed: the wall time of the last event, or the clusterTime where an old server gives none."""
    wall = piece.events[-1].get("wallTime") if piece.events else None
    return milliseconds(wall) if wall is not None else position.seconds(piece.position) * 1000
