"""One published table: what happens to documents -> its data messages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from zmsd.mongodb.content_reader import Fields
from zmsd.mongodb.lookup import AFTER, BEFORE
from zmsd.mongodb.source import Document
from zmsd.rows import computed, plain
from zmsd.rows.changes import RowChange, between, between_many
from zmsd.rows.filters import identity
from zmsd.rows.plain import Row, RowFunction, compile_rows
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping as TableMapping
from zmsd.zero.protocol import TableMessages
from zmsd.zero.system_tables import ShardTable

_TAKEN = "replaces a row with the same key"
_OWNERS = 10_000
"""Keys of which a table remembers whose row it is: the newest, and those of the transaction that is open."""


class TableEncoder:
    """For one thread."""

    def __init__(self, table: Table, rejects: Rejects) -> None:
        self.name = table.name
        self.messages = TableMessages(table.name, table.spec.primary_key)
        self.follows_from_id = computed.follows_from_id(table)
        """A change can be told without the document before."""
        self.copied_at = -1
        """Everything up to this position is in its rows already, from a copy later than the stream's place."""
        self._rejects = rejects
        self._owners: dict[str, Any] = {}  # key -> identity of the document whose row it is
        self._plain = table.mapping.plain
        mapping, source_id = _of_results(table)
        self._row = compile_rows(replace(table, mapping=mapping), rejects, source_id)
        self._row_before = compile_rows(replace(table, mapping=mapping))
        # Only asked where the key follows from _id: its columns are paths into it, or _id itself.
        fields = table.mapping.fields or tuple((column.name, "_id") for column in table.spec.columns)
        self._row_of_id = compile_rows(replace(table, mapping=TableMapping(mapping.collection, fields)))

    def forget_owners(self) -> None:
        """The table is emptied."""
        self._owners.clear()

    def trim_owners(self) -> None:
        """To be called between transactions."""
        if len(self._owners) > 2 * _OWNERS:
            self._owners = dict(itertools.islice(self._owners.items(), len(self._owners) - _OWNERS, None))

    def changes(self, event: Document) -> list[bytes]:
        """Messages for a change whose document before is known (or there was none)."""
        kind, source_id = event["operationType"], event["documentKey"]["_id"]
        deleted = kind == "delete"
        if not self.follows_from_id:
            before = self._rows(event, BEFORE, self._row_before)
            return self._changes_of_keys(before, [] if deleted else self._rows(event, AFTER, self._row), source_id)
        old = self._only_row(event, BEFORE, self._row_before)
        new = None if deleted else self._only_row(event, AFTER, self._row)
        if kind == "insert" and new is not None:
            self._owners[new[0]] = identity(source_id)
            return [self.messages.inserted(new[1])]
        if old is not None and new is not None and old[0] != new[0]:  # replaced by an equal _id with other digits
            return self._changes_of_keys([old], [new], source_id)
        change = between(old if self._owns(old, new, source_id) else None, new)
        return [] if change is None else [self.messages.frame(change)]

    def changes_from_unknown(self, event: Document) -> list[bytes]:
        """The same where the document before is not known: its row may be there or not, under a key made of ``_id``.

        An update of a missing row inserts it and a delete of one does nothing, so both are right in either case.
        """
        new = None if event["operationType"] == "delete" else self._only_row(event, AFTER, self._row)
        source_id = event["documentKey"]["_id"]
        changes = [] if new is None else [RowChange("update", None, new[1])]
        old = None
        if new is None or event["operationType"] == "replace":  # perhaps by an equal _id with other digits
            old = self._row_of_id({"_id": source_id})
        owned = self._owns(old, new, source_id)
        if old is not None and owned and (new is None or new[0] != old[0]):
            changes.insert(0, RowChange("delete", old[0], None))
        return [self.messages.frame(change) for change in changes]

    def copied(self, documents: Sequence[Document], results: list[list[Document]] | None) -> list[bytes]:
        """Insert messages for whole documents.

        :param results: what mongod computed for each, where the table is computed
        """
        found = documents if results is None else itertools.chain.from_iterable(results)
        rows = [row for row in map(self._row, found) if row is not None]
        if len({key for key, _ in rows}) < len(rows):
            self._tell_taken(documents, results)
        inserted = self.messages.inserted
        return [inserted(text) for _, text in rows]

    def _only_row(self, event: Document, image: str, function: RowFunction) -> Row | None:
        """Where a document has no more than one."""
        document = event.get(image)
        if document is None:
            return None
        if self._plain:
            return function(document)
        return next(filter(None, map(function, event["computed"][self.name, image])), None)

    def _rows(self, event: Document, image: str, function: RowFunction) -> list[Row]:
        document = event.get(image)
        if document is None:
            return []
        found = [document] if self._plain else event["computed"][self.name, image]
        return [row for row in map(function, found) if row is not None]

    def _tell_taken(self, documents: Sequence[Document], results: list[list[Document]] | None) -> None:
        keys: set[str] = set()
        for number, document in enumerate(documents):
            for found in [document] if results is None else results[number]:
                row = self._row_before(found)
                if row is not None and row[0] in keys:
                    self._rejects.add(self.name, _TAKEN, document.get("_id"))
                elif row is not None:
                    keys.add(row[0])

    def _owns(self, old: Row | None, new: Row | None, source_id: Any) -> bool:
        """Whether the old row is this document's: 7 and "7", an ObjectId and its digits, objects of which one member is
        the key give the same one, and the usual way to change an ``_id`` is to insert the one and then delete the
        other."""
        whose = identity(source_id)
        owned = old is None or self._owners.get(old[0], whose) == whose
        if old is not None and owned:
            self._owners.pop(old[0], None)
        if new is not None:
            self._owners[new[0]] = whose
        return owned

    def _changes_of_keys(self, old: list[Row], new: list[Row], source_id: Any) -> list[bytes]:
        """Where any document may give a row of any key: what another one has taken over stays its own, as far as that
        is remembered."""
        owners, whose = self._owners, identity(source_id)
        kept = [(key, text) for key, text in old if owners.get(key, whose) == whose]
        for key, _ in kept:
            owners.pop(key, None)
        for key, _ in new:
            if key in owners:  # of another document, or of this one and another row
                self._rejects.add(self.name, _TAKEN, source_id)
            owners[key] = whose
        frames: list[bytes] = []
        for change in between_many(kept, new):
            if change.tag == "update" and change.key is not None:
                # zero-cache does not survive an update that moves a row onto another one: make room.
                frames.append(self.messages.frame(RowChange("delete", new[0][0], None)))
            frames.append(self.messages.frame(change))
        return frames


def _of_results(table: Table) -> tuple[TableMapping, str]:
    """A plain mapping that makes a table's rows of what mongod computed (or of the documents), and the field that has
    the document's ``_id`` then."""
    mapping = table.mapping
    if mapping.plain:
        return mapping, "_id"
    if mapping.fields is not None:
        return replace(mapping, filter=None), "_id"  # mongod has done that
    by_name = tuple((column.name, column.name) for column in table.spec.columns)
    return TableMapping(mapping.collection, by_name), computed.SOURCE_ID


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
