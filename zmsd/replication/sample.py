"""Sample the fields of a collection that the columns of a table are mapped to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zmsd.bson_types import EMPTY, Document
from zmsd.errors import SourceError
from zmsd.mongodb.source import Source
from zmsd.rows.computed import stages_of
from zmsd.schema.catalog import Table

SAMPLE = 1000
"""Documents in a sample."""
_ENOUGH = 100
"""Documents that a sample must have before a missing field is also reported for an optional column."""
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
"""Paths that mean the same in mongod's expressions as in a mapping: they have neither ``$`` nor an array index."""


class ColumnSample(NamedTuple):
    """The values of one column in a sample."""

    name: str
    path: str
    kinds: Counter[str]
    """BSON type -> count."""
    total: int
    is_key: bool
    optional: bool

    @property
    def is_missing(self) -> bool:
        """Return whether the field seems not to exist: no document of the sample has it."""
        return set(self.kinds) == {"missing"} and (not self.optional or self.total >= _ENOUGH)

    @property
    def without_key(self) -> int:
        """Return how many documents give no row, because this column of the primary key has no value."""
        return sum(self.kinds[kind] for kind in EMPTY) if self.is_key else 0


def sample_columns(source: Source, table: Table) -> Iterator[ColumnSample]:
    """Read the BSON types of the columns in a sample of the collection.

    Yields nothing if the collection is empty, or if mongod cannot compute the table. Raises SourceError.
    """
    columns = {column.name: column for column in table.spec.columns}
    fields: Sequence[tuple[str, str]] = table.mapping.fields or [(name, name) for name in columns]
    computed_id = table.mapping.fields is None  # the stages may leave the _id out
    paths = [(name, path) for name, path in fields if _PATH.fullmatch(path) and (computed_id or path != "_id")]
    types: Document = {f"c{number}": {"$type": f"${path}"} for number, (_, path) in enumerate(paths)}
    if not types:
        return
    stages = [*stages_of(table), {"$limit": SAMPLE}, {"$project": types | {"_id": 0}}]
    try:
        found = source.sample(table.mapping.collection, SAMPLE, stages)
    except SourceError:
        if table.mapping.plain:
            raise
        return  # mongod refuses the stages, or they fail on a document: both are reported elsewhere
    for number, (name, path) in enumerate(paths if found else ()):
        kinds = Counter(str(one[f"c{number}"]) for one in found)
        is_key = name in table.spec.primary_key
        yield ColumnSample(name, path, kinds, len(found), is_key, columns[name].optional)
