"""Encoder: events in, entries of the change log out; each message is encoded once, whoever reads it."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from zmsd import position
from zmsd.log import kv
from zmsd.mongodb.lookup import AFTER, BEFORE, BEFORE_KNOWN, OF_DOCUMENTS
from zmsd.mongodb.sequencer import Piece
from zmsd.mongodb.source import Document
from zmsd.replication.change_log import Entry
from zmsd.rows.bson_json import milliseconds
from zmsd.rows.computed import Evaluator
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog
from zmsd.zero.system_tables import ShardTable
from zmsd.zero.table_encoder import TableEncoder

log = logging.getLogger(__name__)

_milliseconds = lru_cache(maxsize=16)(milliseconds)  # of a backlog many have the same

_PART = 2000
"""Messages after which a transaction goes on in another entry."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How an encoder reads what an event alone does not tell."""

    now: Callable[[], int]
    """The position of the database now."""
    documents: Callable[[str, int], Iterator[list[Document]]]
    """(collection, position) -> all its documents at that position, in batches."""
    shards: Callable[[], Iterable[str]]
    """The names of all shards (``zero_0``) that have ever got a copy."""


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
        self._usual = {name: tables for name, tables in self.tables.items() if name not in self._shards}
        self.rows: Counter[str] = Counter()
        """Row changes made so far, by table."""
        self.progress: Callable[[], None] = lambda: None
        """Called now and then while a whole collection is read."""
        self._begun = False
        self._commit_ms = 0  # of the transaction that is open: its last part may come without an event
        self._ahead_to: int | None = None

    def entries(self, pieces: Sequence[Piece]) -> Iterator[list[Entry]]:
        """The entries of a batch of pieces: at once, but for those of an event that makes many rows."""
        made: list[Entry] = []
        fresh = False
        for piece in pieces:
            if piece.first and not fresh:  # but what its transaction has done before belongs to it
                fresh = True
                for table in itertools.chain.from_iterable(self.tables.values()):
                    table.trim_owners()
            for entry in self._entries(piece):
                made.append(entry)
                if entry.rows >= _PART:
                    yield made
                    made = []
        if made:
            yield made

    def _entries(self, piece: Piece) -> Iterable[Entry]:
        """One event that is all of its transaction is the usual case: without generators it takes a tenth less."""
        if piece.first and piece.last and len(piece.events) == 1:
            frames = self._of_usual(piece.events[0], piece.position)
            if frames is not None:
                return (self._part(piece, frames, {}, last=True),) if frames else ()
        return self._parts(piece)

    def _parts(self, piece: Piece) -> Iterator[Entry]:
        if piece.first:
            self._begun = False
        frames: list[bytes] = []
        by_shard: dict[str, list[bytes]] = {}
        for event in piece.events:
            usual = self._of_usual(event, piece.position)
            for some in self._of_any(event, piece.position) if usual is None else (usual,):
                frames += some
                if len(frames) >= _PART:
                    yield self._part(piece, frames, by_shard, last=False)
                    frames, by_shard = [], {}
            for shard, data in self._of_shards(event, piece.position) if usual is None else ():
                by_shard.setdefault(shard, []).append(data)
        if frames or by_shard or (piece.last and self._begun):
            yield self._part(piece, frames, by_shard, last=piece.last)

    def _part(self, piece: Piece, frames: list[bytes], by_shard: Mapping[str, list[bytes]], *, last: bool) -> Entry:
        self._begun = True
        if piece.events:
            self._commit_ms = commit_ms(piece)
        ahead_to, self._ahead_to = self._ahead_to, None
        return Entry(
            position.watermark(piece.position),
            self._commit_ms,
            len(frames),
            b"".join(frames),
            last,
            {shard: b"".join(data) for shard, data in by_shard.items()} if by_shard else None,
            None if ahead_to is None else position.watermark(ahead_to),
        )

    def copied(self, collection: str, documents: Sequence[Document], tables: Sequence[TableEncoder]) -> list[bytes]:
        """Insert messages of some of a collection's tables."""
        evaluator = self._evaluators.get(collection)
        names = {table.name for table in tables}
        computed = evaluator.evaluate(documents, only=names) if evaluator is not None else {}
        frames: list[bytes] = []
        for table in tables:
            rows = table.copied(documents, computed.get(table.name))
            self.rows[table.name] += len(rows)
            frames += rows
        return frames

    def _of_usual(self, event: Document, at: int) -> list[bytes] | None:
        """Messages for the change of a document; None where it takes more than the event to tell it."""
        tables = self._usual.get(event["ns"].get("coll"))
        if tables is None or event["operationType"] not in OF_DOCUMENTS:
            return None
        known = _is_known(event)
        if len(tables) == 1 and known and at > tables[0].copied_at:
            return self._changes(tables[0], event, known)
        if not known and not all(table.follows_from_id for table in tables):
            return None
        return [frame for table in tables if at > table.copied_at for frame in self._changes(table, event, known)]

    def _changes(self, table: TableEncoder, event: Document, known: bool) -> list[bytes]:
        frames = table.changes(event) if known else table.changes_from_unknown(event)
        self.rows[table.name] += len(frames)
        return frames

    def _of_any(self, event: Document, at: int) -> Iterator[list[bytes]]:
        """Messages, in lists of a length that memory bears."""
        kind, collection = event["operationType"], event["ns"].get("coll")
        if kind in OF_DOCUMENTS:
            known = _is_known(event)
            for table in self.tables.get(collection, ()):
                if at > table.copied_at:
                    if known or table.follows_from_id:
                        yield self._changes(table, event, known)
                    else:
                        yield from self._afresh(collection, table)
            return
        if kind not in ("drop", "rename"):
            return
        target = event.get("to", {}).get("coll")
        stale = {
            name: [table for table in self.tables.get(name, ()) if at > table.copied_at]
            for name in (collection, target)
        }
        emptied = list(itertools.chain.from_iterable(stale.values()))
        for table in emptied:
            table.forget_owners()
        yield [table.messages.truncate() for table in emptied]
        yield from self._all(target, at, stale[target])

    def _of_shards(self, event: Document, at: int) -> Iterator[tuple[str, bytes]]:
        kind, collection = event["operationType"], event["ns"].get("coll")
        if kind in OF_DOCUMENTS:
            if collection in self._shards:
                yield from self._shards[collection].changes(event)
        elif kind in ("drop", "rename"):
            target = event.get("to", {}).get("coll")
            for name in sorted(self._shards.keys() & {collection, target}):
                yield from self._shards[name].emptied(self._reading.shards())
            if target in self._shards:
                for documents in self._reading.documents(target, at):
                    self.progress()
                    for document in documents:
                        yield from self._shards[target].changes({"operationType": "insert", AFTER: document})

    def _afresh(self, collection: str, table: TableEncoder) -> Iterator[list[bytes]]:
        """A table whose change cannot be told without the document before: all its rows, as they are now.

        What happened up to then is in them already, so the table's events are passed over until that position.
        """
        now = self._reading.now()
        log.warning(kv("table copied afresh", table=table.name, reason="a change came without the document before"))
        table.copied_at = self._ahead_to = now
        table.forget_owners()
        yield [table.messages.truncate()]
        yield from self._all(collection, now, [table])

    def _all(self, collection: str, at: int, tables: list[TableEncoder]) -> Iterator[list[bytes]]:
        if tables:
            for documents in self._reading.documents(collection, at):
                self.progress()
                yield self.copied(collection, documents, tables)


def _is_known(event: Document) -> bool:
    """Whether it is known what was there before the change."""
    return event["operationType"] == "insert" or event.get(BEFORE) is not None or BEFORE_KNOWN in event


def commit_ms(piece: Piece) -> int:
    """When MongoDB committed: the wall time of the last event, or the clusterTime where an old server gives none."""
    wall = piece.events[-1].get("wallTime") if piece.events else None
    return _milliseconds(wall) if wall is not None else position.seconds(piece.position) * 1000
