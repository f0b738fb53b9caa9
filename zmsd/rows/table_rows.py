"""TableRows: make row changes of one table from changes of documents, and track which document owns a key.

Two documents may claim a key for a while: 7 and "7", an ObjectId and its digits, and objects of which one member is the
key give the same key in a string column, and the usual way to change an ``_id`` is to insert the new document and then
to delete the old one. So a table remembers which document owns a key, and a document's change never removes another
document's row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from zmsd.bson_types import Document
from zmsd.rows import computed
from zmsd.rows.changes import RowChange, between, between_many
from zmsd.rows.filters import identity
from zmsd.rows.plain import Row, RowFunction, compile_rows
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Table
from zmsd.schema.mapping import Mapping

Results = dict[str, list[Document]] | None
"""Computed table -> what its stages make of one document."""

_KEY_TAKEN = "replaces a row with the same key"
_MAX_REMEMBERED_KEYS = 10_000
"""Keys whose owner a table remembers: the newest, and all keys of the transaction that is open."""


class DocumentChange(Protocol):
    """What a table needs of a change event of one document (``zmsd/mongodb/events.py``)."""

    @property
    def kind(self) -> str:
        """``insert``, ``update``, ``replace`` or ``delete``."""
        ...

    @property
    def document_id(self) -> Any:
        """``_id`` of the document."""
        ...

    @property
    def before(self) -> Document | None:
        """The document before the change; None where nothing was there, or where it is unknown."""
        ...

    @property
    def after(self) -> Document | None:
        """The document after the change; None after a delete."""
        ...

    @property
    def before_known(self) -> bool:
        """Whether ``before`` is what was there."""
        ...

    @property
    def computed_before(self) -> Results:
        """What mongod makes of ``before``, by computed table."""
        ...

    @property
    def computed_after(self) -> Results:
        """What mongod makes of ``after``, by computed table."""
        ...


class TableRows:
    """Rows of one published table. Owned by one thread."""

    def __init__(self, table: Table, rejects: Rejects) -> None:
        self.name = table.name
        self.follows_from_id = computed.follows_from_id(table)
        """Whether a change can be applied without the document before: the key is made of ``_id`` alone."""
        self._rejects = rejects
        self._owners: dict[str, Any] = {}  # key -> identity of the document that owns the row
        self._plain = table.mapping.plain
        mapping, source_id = _mapping_of_results(table)
        self._row = compile_rows(replace(table, mapping=mapping), rejects, source_id)
        self._row_before = compile_rows(replace(table, mapping=mapping))
        # Used only where the key follows from _id: its columns are paths into _id, or _id itself.
        fields = table.mapping.fields or tuple((column.name, "_id") for column in table.spec.columns)
        self._row_of_id = compile_rows(replace(table, mapping=Mapping(mapping.collection, fields)))

    def forget_owners(self) -> None:
        """Forget all key owners: the table was emptied."""
        self._owners.clear()

    def trim_owners(self) -> None:
        """Forget the oldest key owners. To be called between transactions only."""
        if len(self._owners) > 2 * _MAX_REMEMBERED_KEYS:
            excess = len(self._owners) - _MAX_REMEMBERED_KEYS
            self._owners = dict(itertools.islice(self._owners.items(), excess, None))

    def can_apply(self, event: DocumentChange) -> bool:
        """Return whether the event alone tells what becomes of the rows; otherwise the table must be reread."""
        return event.before_known or self.follows_from_id

    def changes(self, event: DocumentChange) -> list[RowChange]:
        """Return the row changes of an event that ``can_apply`` accepts."""
        if not event.before_known:
            return self._changes_from_unknown(event)
        kind, source_id = event.kind, event.document_id
        if not self.follows_from_id:
            before = self._rows(event.before, event.computed_before, self._row_before)
            after = [] if kind == "delete" else self._rows(event.after, event.computed_after, self._row)
            return self._changes_of_keys(before, after, source_id)
        old = self._only_row(event.before, event.computed_before, self._row_before)
        new = None if kind == "delete" else self._only_row(event.after, event.computed_after, self._row)
        if kind == "insert" and new is not None:
            self._owners[new[0]] = identity(source_id)
            return [RowChange("insert", None, new[1])]
        if old is not None and new is not None and old[0] != new[0]:  # replaced by an equal _id with other digits
            return self._changes_of_keys([old], [new], source_id)
        change = between(old if self._owns(old, new, source_id) else None, new)
        return [] if change is None else [change]

    def of_documents(self, documents: Sequence[Document], results: list[list[Document]] | None) -> list[Row]:
        """Return the rows of documents that a table is filled with.

        :param results: what mongod computed for each document, where the table is computed
        """
        found = documents if results is None else itertools.chain.from_iterable(results)
        rows = [row for row in map(self._row, found) if row is not None]
        if len({key for key, _ in rows}) < len(rows):
            self._report_taken_keys(documents, results)
        return rows

    def _changes_from_unknown(self, event: DocumentChange) -> list[RowChange]:
        """Row changes where the document before is unknown: its row may exist or not, under a key made of ``_id``.

        zero-cache inserts the row for an update of a missing row, and ignores a delete of one, so both are right in
        either case.
        """
        new = None if event.kind == "delete" else self._only_row(event.after, event.computed_after, self._row)
        changes = [] if new is None else [RowChange("update", None, new[1])]
        old = None
        if new is None or event.kind == "replace":  # perhaps by an equal _id with other digits
            old = self._row_of_id({"_id": event.document_id})
        owned = self._owns(old, new, event.document_id)
        if old is not None and owned and (new is None or new[0] != old[0]):
            changes.insert(0, RowChange("delete", old[0], None))
        return changes

    def _only_row(self, document: Document | None, results: Results, function: RowFunction) -> Row | None:
        """The row of a document that has at most one."""
        if document is None:
            return None
        if self._plain:
            return function(document)
        assert results is not None
        return next(filter(None, map(function, results[self.name])), None)

    def _rows(self, document: Document | None, results: Results, function: RowFunction) -> list[Row]:
        if document is None:
            return []
        if not self._plain:
            assert results is not None
            return [row for row in map(function, results[self.name]) if row is not None]
        row = function(document)
        return [] if row is None else [row]

    def _report_taken_keys(self, documents: Sequence[Document], results: list[list[Document]] | None) -> None:
        keys: set[str] = set()
        for number, document in enumerate(documents):
            for found in [document] if results is None else results[number]:
                row = self._row_before(found)
                if row is not None and row[0] in keys:
                    self._rejects.add(self.name, _KEY_TAKEN, document.get("_id"), "replaces another row")
                elif row is not None:
                    keys.add(row[0])

    def _owns(self, old: Row | None, new: Row | None, source_id: Any) -> bool:
        """Return whether the old row is this document's, and make the document own the new row's key."""
        document = identity(source_id)
        owned = old is None or self._owners.get(old[0], document) == document
        if old is not None and owned:
            self._owners.pop(old[0], None)
        if new is not None:
            self._owners[new[0]] = document
        return owned

    def _changes_of_keys(self, old: list[Row], new: list[Row], source_id: Any) -> list[RowChange]:
        """Row changes where any document may give a row of any key: a key that another document has taken over stays
        with that document, as far as owners are remembered."""
        owners, document = self._owners, identity(source_id)
        kept = [(key, text) for key, text in old if owners.get(key, document) == document]
        for key, _ in kept:
            owners.pop(key, None)
        for key, _ in new:
            if key in owners:  # of another document, or of this one and another row
                self._rejects.add(self.name, _KEY_TAKEN, source_id, "replaces another row")
            owners[key] = document
        changes: list[RowChange] = []
        for change in between_many(kept, new):
            if change.tag == "update" and change.key is not None:
                # zero-cache fails on an update that moves a row onto another one (its replicator runs UPDATE without
                # OR REPLACE): delete the row that may have the new key first.
                changes.append(RowChange("delete", new[0][0], None))
            changes.append(change)
        return changes


def _mapping_of_results(table: Table) -> tuple[Mapping, str]:
    """Return a plain mapping from what mongod computed (or from the documents) to the table's columns, and the field
    that has the document's ``_id`` there."""
    mapping = table.mapping
    if mapping.plain:
        return mapping, "_id"
    if mapping.fields is not None:
        return replace(mapping, filter=None), "_id"  # mongod has applied it
    by_name = tuple((column.name, column.name) for column in table.spec.columns)
    return Mapping(mapping.collection, by_name), computed.SOURCE_ID
