"""An edition: everything that is published from some moment on, and what it takes to read and encode it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event
from typing import Any, NamedTuple

from zmsd.bson_types import Document
from zmsd.errors import SourceTimeout
from zmsd.mongodb.content_reader import Watched
from zmsd.mongodb.pipelines import Fields
from zmsd.mongodb.raw_batch import EVALUATED, SLICE
from zmsd.mongodb.snapshot_scan import Scan, prefetched
from zmsd.mongodb.source import Source
from zmsd.pace import Pace
from zmsd.replication.encoder import Computed, Encoder
from zmsd.replication.entries import EntryBuilder
from zmsd.replication.resync import Resync, SnapshotReader
from zmsd.retry import retry_while_unavailable
from zmsd.rows import computed, plain
from zmsd.rows.computed import Evaluator, follows_from_id
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog, Table, diff
from zmsd.schema.tables import Column
from zmsd.zero.system_tables import ShardTable


class Published(NamedTuple):
    """What an edition publishes, as plain values: it can be kept, and compared."""

    catalog: Catalog
    permissions: Any = None
    """For zero-cache's permissions row; None for none."""
    clients_collection: str | None = None
    mutations_collection: str | None = None

    @property
    def fingerprint(self) -> str:
        rest = json.dumps(self[1:], sort_keys=True)
        return hashlib.sha256(f"{self.catalog.fingerprint} {rest}".encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps([self.catalog.to_json(), *self[1:]])

    @staticmethod
    def from_json(text: str) -> Published:
        catalog, *rest = json.loads(text)
        return Published(Catalog.from_json(catalog), *rest)


class Step(NamedTuple):
    """What lies between two editions, for one who has the older one."""

    dropped: tuple[Table, ...]
    added: tuple[Table, ...]
    columns_dropped: tuple[tuple[Table, str], ...]
    columns_added: tuple[tuple[Table, Column], ...]
    recopied: tuple[Table, ...]
    """Kept tables whose rows are others now."""
    shard_tables: tuple[str, ...]
    """``clients``, ``mutations``: those that are read from another collection now."""
    permissions: bool
    incompatible: tuple[str, ...]
    """What Zero cannot be told as a change."""


def step(old: Published, new: Published) -> Step:
    between = diff(old.catalog, new.catalog)
    kinds = {"clients": 2, "mutations": 3}
    return Step(
        dropped=between.dropped,
        added=between.added,
        columns_dropped=tuple((change.new, column.name) for change in between.changed for column in change.dropped),
        columns_added=tuple((change.new, column) for change in between.changed for column in change.added),
        recopied=tuple(change.new for change in between.changed if change.added or change.remapped),
        shard_tables=tuple(kind for kind, place in kinds.items() if old[place] != new[place]),
        permissions=old.permissions != new.permissions,
        incompatible=between.incompatible,
    )


class Edition:
    """May be used from any thread."""

    def __init__(
        self,
        published: Published,
        source: Source,
        rejects: Rejects,
        stop: Event,
        shards: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """:param shards: the names of all shards that have ever got a copy"""
        self.published = published
        self.fingerprint = published.fingerprint
        self.catalog = published.catalog
        self._source = source
        self._rejects = rejects
        self._stop = stop
        self._shards = shards
        named = {"clients": published.clients_collection, "mutations": published.mutations_collection}
        self.shard_tables = [ShardTable(kind, name, rejects) for kind, name in named.items() if name]
        by_collection: dict[str, list[Table]] = {}
        for table in self.catalog.tables:
            if not table.mapping.plain:
                by_collection.setdefault(table.mapping.collection, []).append(table)
        self._evaluators = {name: Evaluator(self._run, tables, rejects) for name, tables in by_collection.items()}
        # A reader tries again by itself, and tells of it.
        of_readers = {name: Evaluator(source.run, tables, rejects) for name, tables in by_collection.items()}
        used = used_fields(self.catalog, self.shard_tables)
        needing = {table.mapping.collection for table in self.catalog.tables if not follows_from_id(table)}
        needing |= {table.collection for table in self.shard_tables}
        filters = row_filters(self.catalog, self.shard_tables)
        self.watched = {
            name: Watched(used[name], of_readers.get(name), name in needing, filters.get(name, ())) for name in used
        }
        """Every collection that is read, and what is wanted of it."""

    def encoder(self, row_counts: Counter[str] | None = None) -> Encoder:
        """Return an encoder for one thread.

        :param row_counts: table -> row changes made, counted by the encoder
        """
        return Encoder(self.catalog, self._rejects, self.shard_tables, row_counts)

    def entry_builder(
        self, row_counts: Counter[str] | None = None, on_progress: Callable[[], None] = lambda: None
    ) -> EntryBuilder:
        """Return an EntryBuilder for one thread.

        :param on_progress: called for each batch of documents that a resync reads
        """
        encoder = self.encoder(row_counts)
        reader = SnapshotReader(self._source.operation_time, self.documents, self.evaluate, self._shards)
        return EntryBuilder(encoder, Resync(encoder, reader, on_progress))

    def evaluate(self, collection: str, documents: Sequence[Document], tables: Iterable[str]) -> Computed:
        """Return what mongod computes for documents of a collection, by computed table."""
        evaluator = self._evaluators.get(collection)
        return {} if evaluator is None else evaluator.evaluate(documents, only=set(tables))

    def _run(self, pipeline: list[Document], seconds: float) -> list[Document]:
        pace = Pace(1)

        def run() -> list[Document]:
            try:
                return self._source.run(pipeline, max(seconds, pace.seconds))
            except SourceTimeout as error:
                pace.late(busy=error.busy)
                raise

        return retry_while_unavailable("evaluation", run, self._stop)

    def documents(self, collection: str, at: int) -> Iterator[list[Document]]:
        """All documents of a collection at a position, in batches."""
        return prefetched(self.scan(collection, at), self._stop)

    def scan(self, collection: str, at: int) -> Scan:
        wanted = self.watched[collection]
        size = SLICE if wanted.evaluator is None else EVALUATED
        return Scan(self._source, collection, wanted.fields, at, size)


def used_fields(catalog: Catalog, shards: Iterable[ShardTable]) -> dict[str, Fields]:
    """The watched collections, each with the top-level fields that its tables use."""
    used: dict[str, Fields] = {shard.collection: None for shard in shards}
    for table in catalog.tables:
        name = table.mapping.collection
        used[name] = _union(
            used.get(name, frozenset()), (plain if table.mapping.plain else computed).used_fields(table)
        )
    return used


def row_filters(catalog: Catalog, shards: Iterable[ShardTable]) -> dict[str, list[Document]]:
    """The filters of the collections of which every table has a plain one."""
    others = {shard.collection for shard in shards}
    return {
        name: [table.mapping.filter for table in tables]
        for name, tables in catalog.by_collection.items()
        if name not in others and all(table.mapping.plain and table.mapping.filter for table in tables)
    }


def _union(one: Fields, other: Fields) -> Fields:
    return None if one is None or other is None else one | other
