"""One published table: what happens to documents -> its data messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from zmsd.catalog.catalog import Catalog, Table
from zmsd.catalog.mapping import Mapping as TableMapping
from zmsd.feed.collection import Fields
from zmsd.feed.lookup import AFTER, BEFORE
from zmsd.feed.source import Document
from zmsd.rows import computed, plain
from zmsd.rows.changes import RowChange, between, between_many
from zmsd.rows.plain import Row, compile_rows
from zmsd.rows.rejects import Rejects
from zmsd.stream.protocol import TableMessages, frame
from zmsd.stream.shards import ShardTable


class TableEncoder:
    """For one thread."""

    def __init__(self, table: Table, rejects: Rejects) -> None:
        self.name = table.name
        self.messages = TableMessages(table.name, table.spec.primary_key)
        self.follows_from_id = computed.follows_from_id(table)
        """A change can be told without the document before."""
        self.copied_at = -1
        """Everything up to this position is in its rows already, from a copy later than the stream's place."""
        self._plain = table.mapping.plain
        # What mongod computed has the table's columns by their names: a plain mapping takes it from there.
        mapping = table.mapping if self._plain else _by_name(table)
        self._row = compile_rows(replace(table, mapping=mapping), rejects)
        self._row_before = compile_rows(replace(table, mapping=mapping))
        # Only asked where the key follows from _id: its columns are paths into it, or _id itself.
        fields = table.mapping.fields or tuple((column.name, "_id") for column in table.spec.columns)
        self._row_of_id = compile_rows(replace(table, mapping=TableMapping(mapping.collection, fields)))

    def changes(self, event: Document) -> list[bytes]:
        """Messages for a change whose document before is known (or there was none)."""
        before, after = event.get(BEFORE), event.get(AFTER)
        if event["operationType"] == "delete":
            after = None
        if self._plain:
            old = None if before is None else self._row_before(before)
            change = between(old, None if after is None else self._row(after))
            return [] if change is None else [self.messages.frame(change)]
        rows = event["computed"]
        changes = between_many(
            [] if before is None else self._rows_before(rows[self.name, BEFORE]),
            [] if after is None else self._rows(rows[self.name, AFTER]),
        )
        return [self.messages.frame(change) for change in changes]

    def changes_from_unknown(self, event: Document) -> list[bytes]:
        """The same where the document before is not known: its row may be there or not, under a key made of ``_id``.

        An update of a missing row inserts it and a delete of one does nothing, so both are right in either case.
        """
        after = None if event["operationType"] == "delete" else event.get(AFTER)
        if after is None:
            new = None
        elif self._plain:
            new = self._row(after)
        else:
            new = next(iter(self._rows(event["computed"][self.name, AFTER])), None)
        if new is not None:
            return [self.messages.frame(RowChange("update", None, new.text))]
        old = self._row_of_id({"_id": event["documentKey"]["_id"]})
        return [] if old is None else [self.messages.frame(RowChange("delete", old.key, None))]

    def copied(self, documents: Sequence[Document], results: list[list[Document]] | None) -> list[bytes]:
        """Insert messages for whole documents.

        :param results: what mongod computed for each, where the table is computed
        """
        head = self.messages.insert
        if self._plain:
            rows: Iterable[Row | None] = map(self._row, documents)
        else:
            assert results is not None
            rows = (row for found in results for row in self._rows(found))
        return [frame(f"{head}{row.text}}}]") for row in rows if row is not None]

    def _rows(self, results: list[Document]) -> list[Row]:
        return [row for row in map(self._row, results) if row is not None]

    def _rows_before(self, results: list[Document]) -> list[Row]:
        return [row for row in map(self._row_before, results) if row is not None]


def _by_name(table: Table) -> TableMapping:
    return TableMapping(table.mapping.collection, tuple((column.name, column.name) for column in table.spec.columns))


def used_fields(catalog: Catalog, shards: Iterable[ShardTable]) -> dict[str, Fields]:
    """The watched collections, each with the top-level fields that its tables use."""
    used: dict[str, Fields] = {shard.collection: None for shard in shards}
    for table in catalog.tables:
        name = table.mapping.collection
        used[name] = _union(
            used.get(name, frozenset()), (plain if table.mapping.plain else computed).used_fields(table)
        )
    return used


def _union(one: Fields, other: Fields) -> Fields:
    return None if one is None or other is None else one | other
