"""Encoder: change events and documents in, data messages out. No I/O; each message is encoded once for all clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from zmsd.bson_types import Document
from zmsd.mongodb.events import OF_DOCUMENTS, ChangeEvent
from zmsd.rows.discriminators import Discriminator
from zmsd.rows.rejects import Rejects
from zmsd.rows.table_rows import TableRows
from zmsd.schema.catalog import Catalog, Table
from zmsd.zero.protocol import TableMessages
from zmsd.zero.system_tables import ShardTable

Computed = Mapping[str, list[list[Document]]]
"""Computed table -> for each document what mongod made of it."""


class TableEncoder:
    """One published table: its rows and its messages. Owned by one thread."""

    def __init__(self, table: Table, rejects: Rejects, included_to: int = -1) -> None:
        """:param included_to: position up to which the table has all changes already"""
        self.name = table.name
        self.collection = table.mapping.collection
        self.rows = TableRows(table, rejects)
        self.messages = TableMessages(table.name, table.spec.primary_key)
        self.included_to = included_to
        """Position up to which the table has all changes already, because it was read later than the stream."""

    def include(self, position: int) -> None:
        """Leave out the events up to a position: the table is about to be reread as it was then."""
        self.included_to = position

    def changes(self, event: ChangeEvent) -> list[bytes]:
        """Return the messages of an event that ``rows.can_apply`` accepts."""
        return [self.messages.frame(change) for change in self.rows.changes(event)]


class Encoder:
    """Encodes for one catalog. Owned by one thread."""

    def __init__(
        self,
        catalog: Catalog,
        rejects: Rejects,
        system_tables: Iterable[ShardTable] = (),
        row_counts: Counter[str] | None = None,
        included_to: Mapping[str, int] | None = None,
    ) -> None:
        """:param system_tables: the collections that hold zero-cache's own rows
        :param row_counts: table -> row changes made so far, counted here
        :param included_to: table -> position up to which the table has all changes already
        """
        self.system_tables = {table.collection: table for table in system_tables}
        self.row_counts: Counter[str] = Counter() if row_counts is None else row_counts
        self.tables: dict[str, list[TableEncoder]] = {}
        """Collection -> its tables."""
        for table in catalog.tables:
            encoder = TableEncoder(table, rejects, (included_to or {}).get(table.name, -1))
            self.tables.setdefault(table.mapping.collection, []).append(encoder)
            self.row_counts[table.name] += 0  # so that the metric of a table without changes is 0
        by_collection = catalog.by_collection
        self._discriminators = {
            name: Discriminator([table.mapping for table in by_collection[name]]) for name in self.tables
        }
        self._usual = {name: tables for name, tables in self.tables.items() if name not in self.system_tables}

    def change(self, event: ChangeEvent, at: int) -> list[bytes] | None:
        """Return the messages for the change of a document.

        :param at: the event's position
        :returns: None where the event alone does not tell them (:class:`zmsd.replication.resync.Resync`)
        """
        tables = self._usual.get(event.collection or "")
        if tables is None or event.kind not in OF_DOCUMENTS:
            return None
        if len(tables) == 1 and event.before_known and at > tables[0].included_to:
            return self.changes(tables[0], event)
        if not event.before_known and not all(table.rows.follows_from_id for table in tables):
            return None
        if event.before_known:
            chosen = self._discriminators[event.collection or ""].tables_of_change(event.before, event.after)
            tables = [tables[number] for number in chosen]
        return [frame for table in tables if at > table.included_to for frame in self.changes(table, event)]

    def changes(self, table: TableEncoder, event: ChangeEvent) -> list[bytes]:
        """Return the messages of one table, and count them."""
        frames = table.changes(event)
        self.row_counts[table.name] += len(frames)
        return frames

    def system_changes(self, event: ChangeEvent) -> Iterator[tuple[str, bytes]]:
        """Yield (shard, message) for a change in a collection that holds zero-cache's own rows."""
        if event.collection in self.system_tables:
            yield from self.system_tables[event.collection].changes(event)

    def inserts(self, documents: Sequence[Document], computed: Computed, tables: Sequence[TableEncoder]) -> list[bytes]:
        """Return insert messages of some of a collection's tables for documents."""
        frames: list[bytes] = []
        discriminator = self._discriminators[tables[0].collection] if tables else None
        split = None
        if discriminator is not None and discriminator.is_useful and len(tables) > 1:
            found = discriminator.split(documents)
            split = {
                table.name: found.get(number, []) for number, table in enumerate(self.tables[tables[0].collection])
            }
        for table in tables:
            inserted, results = table.messages.inserted, computed.get(table.name)
            own = documents if split is None or results is not None else split[table.name]
            made = [inserted(text) for _, text in table.rows.of_documents(own, results)]
            self.row_counts[table.name] += len(made)
            frames += made
        return frames

    def truncate(self, tables: Iterable[TableEncoder]) -> list[bytes]:
        """Return the messages that empty tables, and forget who owns their keys."""
        emptied = list(tables)
        for table in emptied:
            table.rows.forget_owners()
        return [table.messages.truncate() for table in emptied]

    def trim(self) -> None:
        """Bound what the tables remember. To be called between transactions only."""
        for tables in self.tables.values():
            for table in tables:
                table.rows.trim_owners()
