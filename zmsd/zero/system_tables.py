"""zero-cache's own tables ``clients`` and ``mutations``: which mutations the application has applied.

The application's push endpoint writes these rows into MongoDB in the same transaction as its data (settings
``zero.clients_collection`` and ``zero.mutations_collection``). Each document names its shard, such as ``zero_0``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zmsd.bson_types import Document
from zmsd.mongodb.events import WITH_AFTER, ChangeEvent
from zmsd.rows.changes import RowChange, between
from zmsd.rows.plain import Row, compile_rows
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec
from zmsd.zero.protocol import TableMessages

_KEY = {"clientGroupID": "string", "clientID": "string"}
_COLUMNS = {
    "clients": {**_KEY, "lastMutationID": "number", "userID": "string"},
    "mutations": {**_KEY, "mutationID": "number", "mutation": "json", "result": "json"},
}
_PRIMARY = {"clients": tuple(_KEY), "mutations": (*_KEY, "mutationID")}


class ShardTable:
    """One collection that becomes a table ``clients`` or ``mutations`` in every shard. One thread at a time."""

    def __init__(self, kind: str, collection: str, rejects: Rejects) -> None:
        """:param kind: ``clients`` or ``mutations``"""
        self.kind = kind
        self.collection = collection
        columns = _COLUMNS[kind]
        spec = TableSpec(f"(shard).{kind}", tuple(Column(name, type) for name, type in columns.items()), _PRIMARY[kind])
        table = Table(spec, Mapping(collection, tuple((name, name) for name in columns)))
        self._row = compile_rows(table, rejects)
        self._row_before = compile_rows(table)
        self._rejects = rejects
        self._messages: dict[str, TableMessages] = {}

    def changes(self, event: ChangeEvent) -> Iterator[tuple[str, bytes]]:
        """Yield (shard, message) for each row change of an event."""
        after = event.after if event.kind in WITH_AFTER else None
        before = event.before
        if event.kind == "delete" and before is None:
            reason = "delete without the document before"
            self._rejects.add(f"(shard).{self.kind}", reason, event.document_id, "delete not sent")
            return
        new = None if after is None else self._row(after)
        old = None if before is None else self._row_before(before)
        new_shard = str(after.get("shard")) if after is not None else None
        old_shard = str(before.get("shard")) if before is not None else new_shard
        if old is not None and old_shard != new_shard:
            yield str(old_shard), self._message(str(old_shard), RowChange("delete", old[0], None))
            old = None
        change = between(old, new)
        if change is not None:
            shard = str(new_shard if new is not None else old_shard)
            yield shard, self._message(shard, change)

    def emptied(self, shards: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (shard, message) that empties the table of each shard, after a drop or rename of the collection."""
        for shard in shards:
            yield shard, self._messages_of(shard).truncate()

    def inserts(self, shard: str, documents: list[Document]) -> list[bytes]:
        """Return the insert messages of one shard, for documents of a snapshot scan."""
        rows: list[Row | None] = [self._row(document) for document in documents if document.get("shard") == shard]
        return [self._message(shard, RowChange("insert", None, row[1])) for row in rows if row is not None]

    def _message(self, shard: str, change: RowChange) -> bytes:
        return self._messages_of(shard).frame(change)

    def _messages_of(self, shard: str) -> TableMessages:
        if shard not in self._messages:
            self._messages[shard] = TableMessages(f"{shard}.{self.kind}", _PRIMARY[self.kind])
        return self._messages[shard]
