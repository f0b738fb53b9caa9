"""Compare the rows of a RowFile with the documents of MongoDB, read at the replica's own position.

The rows are made as an initial sync makes them: snapshot scan, evaluation by mongod, ``TableRows``. MongoDB keeps the
past for ``minSnapshotHistoryWindowInSeconds``, five minutes by default
(https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/). A scan that takes longer goes on at a later
position, to which the rows have followed the stream. Rows that came meanwhile are not compared, because their documents
may be among those that were read before; every other row is compared at one position.

A capped collection cannot be read at a past position at all
(https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/). Its documents are read as they are, then the
rows follow the stream to a position after that, and a row that the stream has changed is not compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import SnapshotGone, ZmsdError
from zmsd.mongodb.snapshot_scan import prefetched
from zmsd.replication.active_publication import ActivePublication
from zmsd.rows.rejects import Rejects
from zmsd.rows.table_rows import TableRows
from zmsd.schema.catalog import Table
from zmsd.verify.row_file import RowFile, Shape, State
from zmsd.verify.stream import Reached
from zmsd.verify.values import differing, sorted_key
from zmsd.zero.protocol import DATA_TYPES


@dataclass(frozen=True)
class Difference:
    """A row that is not the same on both sides."""

    kind: str
    """``missing``, ``extra`` or ``different``."""
    key: str
    """JSON text."""
    columns: tuple[str, ...] = ()
    """The columns that differ."""
    expected: str | None = None
    """JSON text of the row that MongoDB's documents give."""
    actual: str | None = None
    """JSON text of the row in the replica."""


@dataclass
class TableResult:
    """The result for one table."""

    table: str
    collection: str
    watermark: str = ""
    """Where MongoDB was read."""
    rows: int = 0
    """Rows that MongoDB's documents give."""
    equal: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    late: int = 0
    """Rows that came during the comparison, and were not compared."""
    seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    """The first ones."""

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.extra or self.different)


class Comparison:
    """Compares the tables of a publication, one collection at a time. For one thread."""

    def __init__(
        self,
        active: ActivePublication,
        rows: RowFile,
        reached: Reached,
        advance: Callable[[], Reached],
        limit: int,
        on_progress: Callable[[str], None],
    ) -> None:
        """Raises ZmsdError if the rows have other tables or columns than the publication.

        :param reached: the moment of the rows
        :param advance: follows the stream to a later one
        :param limit: differences to keep of each table
        :param on_progress: called with a line for a terminal
        """
        self._active = active
        self._rows = rows
        self._reached = reached
        self._advance = advance
        self._limit = limit
        self._on_progress = on_progress
        check_shapes(active.catalog.tables, rows.shapes)

    def run(self) -> Iterator[TableResult]:
        """Yield the result of each table. Raises ZmsdError."""
        for collection, tables in sorted(self._active.catalog.by_collection.items()):
            begun = time.monotonic()
            results = [_TableComparison(table, self._rows, self._limit) for table in tables]
            self._compare(collection, results)
            with self._rows.transaction():
                for one in results:
                    result = one.finish()
                    result.watermark = position.watermark(self._reached.position)
                    result.seconds = time.monotonic() - begun
                    yield result

    def _compare(self, collection: str, tables: Sequence[_TableComparison]) -> None:
        count, after = 0, None
        gone_at: int | None = None
        exact = True
        while True:
            scan = self._active.scan(collection, self._reached.position, exact_only=exact, after=after)
            expected = scan.estimate()
            try:
                for documents in prefetched(scan, Event()):
                    self._compare_documents(collection, documents, tables)
                    after = documents[-1]
                    count += len(documents)
                    self._on_progress(f"{collection}: {count:,} of about {expected:,} documents compared")
                if not exact:
                    self._follow(tables, replaced=True)
                return
            except SnapshotGone:
                if gone_at == count:  # a new snapshot does not last for one batch either
                    exact = False
                else:
                    gone_at = count
                    self._follow(tables if count else ())

    def _follow(self, compared: Sequence[_TableComparison], *, replaced: bool = False) -> None:
        """Follow the stream to a later position.

        :param compared: the tables of which documents were compared
        :param replaced: whether the documents may be newer than the rows
        """
        for one in compared:
            self._rows.mark_late(one.name, replaced=replaced)
        before = self._reached
        self._reached = self._advance()
        if self._reached.publication != before.publication:
            raise ZmsdError("another publication is served since the comparison began: run zmsd verify again")

    def _compare_documents(
        self, collection: str, documents: list[Document], tables: Sequence[_TableComparison]
    ) -> None:
        results = self._active.evaluate(collection, documents, [table.name for table in tables])
        with self._rows.transaction():
            for table in tables:
                table.compare(documents, results.get(table.name))


class _TableComparison:
    """One table while its collection is read."""

    def __init__(self, table: Table, rows: RowFile, limit: int) -> None:
        self.name = table.name
        self._columns = table.spec.columns
        self._primary_key = table.spec.primary_key
        self._result = TableResult(table.name, table.mapping.collection)
        self._rows = rows
        self._limit = limit
        self._made = TableRows(table, Rejects())
        self._differences: dict[str, Difference] = {}

    def compare(self, documents: Sequence[Document], results: list[list[Document]] | None) -> None:
        """Compare the rows of some documents."""
        for made, row in self._made.of_documents(documents, results):
            key = sorted_key(made, self._primary_key)
            if not self._rows.is_equal(self.name, key, row):
                self._compare_row(key, row)

    def _compare_row(self, key: str, row: str) -> None:
        found = self._rows.find(self.name, key)
        if found is None:
            self._rows.add_missing(self.name, key, row)
            self._keep(Difference("missing", key, expected=row))
            return
        actual, state = found
        if state in (State.EQUAL, State.MISSING):  # another document has the same key: one of them has the row
            return
        columns = differing(self._columns, row, actual)
        self._rows.mark(self.name, key, State.DIFFERENT if columns else State.EQUAL)
        if columns:
            self._keep(Difference("different", key, columns, row, actual))
        else:
            self._differences.pop(key, None)

    def finish(self) -> TableResult:
        """Return the result, and remove the rows from the file."""
        counts, result = self._rows.counts(self.name), self._result
        self._differences = {key: one for key, one in self._differences.items() if self._still_differs(key)}
        result.equal, result.different = counts[State.EQUAL], counts[State.DIFFERENT]
        result.missing, result.extra, result.late = counts[State.MISSING], counts[State.UNSEEN], counts[State.LATE]
        result.rows = result.equal + result.different + result.missing
        for key, row in self._rows.unseen(self.name, self._limit):
            self._keep(Difference("extra", key, actual=row))
        result.differences = list(self._differences.values())
        self._rows.drop_table(self.name)
        return result

    def _still_differs(self, key: str) -> bool:
        """Return whether the stream has not changed a row since it was compared."""
        found = self._rows.find(self.name, key)
        return found is not None and found[1] in (State.DIFFERENT, State.MISSING)

    def _keep(self, difference: Difference) -> None:
        of_kind = sum(one.kind == difference.kind for one in self._differences.values())
        if of_kind < self._limit or difference.key in self._differences:
            self._differences[difference.key] = difference


def check_shapes(tables: Sequence[Table], shapes: dict[str, Shape]) -> None:
    """Raise ZmsdError if a published table has other columns, types or keys than the replica's."""
    for table in tables:
        shape = shapes.get(table.name)
        if shape is None:
            raise ZmsdError(f"the replica has no table {table.name}: it has another publication than the settings")
        types = {column.name: DATA_TYPES[column.type] for column in table.spec.columns}
        if shape.columns != types or shape.primary_key != table.spec.primary_key:
            what = f"columns {_words(types)}, the replica {_words(shape.columns)}"
            raise ZmsdError(f"table {table.name} has other columns than its replica: {what}")


def _words(columns: dict[str, Any]) -> str:
    return ", ".join(f"{name} {type_}" for name, type_ in sorted(columns.items()))
