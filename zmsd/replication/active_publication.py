"""The active publication: what is served now, with everything that is needed to read and encode it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import Event

from zmsd.bson_types import Document
from zmsd.errors import SourceTimeout
from zmsd.mongodb.content_reader import Watched
from zmsd.mongodb.pipelines import Fields
from zmsd.mongodb.snapshot_scan import Scan, prefetched
from zmsd.mongodb.source import Source
from zmsd.pace import Pace
from zmsd.replication.encoder import Computed, Encoder
from zmsd.replication.entries import EntryBuilder
from zmsd.replication.resync import Resync, SnapshotReader
from zmsd.retry import retry_while_unavailable
from zmsd.rows import computed, plain
from zmsd.rows.computed import Evaluator, follows_from_id
from zmsd.rows.discriminators import merged_filters
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.publication import Publication
from zmsd.zero.system_tables import ShardTable


class ActivePublication:
    """A publication together with its watched collections, evaluators and encoders. Thread-safe."""

    def __init__(
        self,
        publication: Publication,
        source: Source,
        rejects: Rejects,
        stop: Event,
        shards: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """:param shards: returns the names of all shards that ever got an initial sync"""
        self.publication = publication
        self.fingerprint = publication.fingerprint
        self.catalog = publication.catalog
        self._source = source
        self._rejects = rejects
        self._stop = stop
        self._shards = shards
        named = {"clients": publication.clients_collection, "mutations": publication.mutations_collection}
        self.shard_tables = [ShardTable(kind, name, rejects) for kind, name in named.items() if name]
        by_collection: dict[str, list[Table]] = {}
        for table in self.catalog.tables:
            if not table.mapping.plain:
                by_collection.setdefault(table.mapping.collection, []).append(table)
        self._evaluators = {name: Evaluator(self._run, tables, rejects) for name, tables in by_collection.items()}
        # A reader retries and reports by itself, so its evaluators raise at once.
        of_readers = {name: Evaluator(source.run, tables, rejects) for name, tables in by_collection.items()}
        used = used_fields(self.catalog, self.shard_tables)
        needing = {table.mapping.collection for table in self.catalog.tables if not follows_from_id(table)}
        needing |= {table.collection for table in self.shard_tables}
        filters = row_filters(self.catalog, self.shard_tables)
        self.watched = {
            name: Watched(used[name], of_readers.get(name), name in needing, filters.get(name, ())) for name in used
        }
        """Collection -> what to read of it."""

    def encoder(self, row_counts: Counter[str] | None = None, included_to: Mapping[str, int] | None = None) -> Encoder:
        """Return an encoder for one thread.

        :param row_counts: table -> row changes made, counted by the encoder
        """
        return Encoder(self.catalog, self._rejects, self.shard_tables, row_counts, included_to)

    def entry_builder(
        self,
        row_counts: Counter[str] | None = None,
        on_progress: Callable[[], None] = lambda: None,
        included_to: Mapping[str, int] | None = None,
    ) -> EntryBuilder:
        """Return an EntryBuilder for one thread.

        :param on_progress: called for each batch of documents that a resync reads
        :param included_to: table -> position up to which the table has all changes already
        """
        encoder = self.encoder(row_counts, included_to)
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
        """Yield all documents of a collection as they were at a position, in batches. Raises SourceError."""
        return prefetched(self.scan(collection, at), self._stop)

    def scan(self, collection: str, at: int, *, exact_only: bool = False, after: Document | None = None) -> Scan:
        """Return a snapshot scan of a collection at a position; the other parameters are those of Scan."""
        watched = self.watched[collection]
        return Scan(
            self._source,
            collection,
            watched.fields,
            at,
            evaluated=watched.evaluated,
            exact_only=exact_only,
            after=after,
        )


def used_fields(catalog: Catalog, shards: Iterable[ShardTable]) -> dict[str, Fields]:
    """Return collection -> the top-level fields that its tables use (None: all), for every watched collection."""
    used: dict[str, Fields] = {shard.collection: None for shard in shards}
    for table in catalog.tables:
        name = table.mapping.collection
        used[name] = _union(
            used.get(name, frozenset()), (plain if table.mapping.plain else computed).used_fields(table)
        )
    return used


def row_filters(catalog: Catalog, shards: Iterable[ShardTable]) -> dict[str, list[Document]]:
    """Return collection -> the filters of its tables, for collections whose tables all have a plain filter.

    Documents that match none of them need not be read.
    """
    others = {shard.collection for shard in shards}
    return {
        name: merged_filters([table.mapping.filter for table in tables])
        for name, tables in catalog.by_collection.items()
        if name not in others and all(table.mapping.plain and table.mapping.filter for table in tables)
    }


def _union(one: Fields, other: Fields) -> Fields:
    return None if one is None or other is None else one | other
