"""Discriminators: find the tables of a document by the value of the field that their filters compare.

Many tables of one collection usually have filters such as ``{"kind": "user"}``, ``{"kind": "system"}`` and so on. The
value of ``kind`` then tells which of them may have rows of a document, so the other tables are not asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import bson

from zmsd.bson_types import Document
from zmsd.rows.filters import comparable, comparables_at, equalities
from zmsd.schema.mapping import Mapping

Numbers = Sequence[int]
"""Numbers of tables, ascending."""


class Discriminator:
    """Finds the tables of one collection that may have rows of a document. Thread-safe."""

    def __init__(self, mappings: Sequence[Mapping]) -> None:
        """:param mappings: of the collection's tables. A table's number is its index here."""
        compared = [equalities(mapping.filter) if mapping.plain and mapping.filter else {} for mapping in mappings]
        path = _commonest(compared)
        self._path = tuple(path.split(".")) if path is not None else ()
        self._name = path if len(self._path) == 1 else None
        self._unindexed = tuple(number for number, of in enumerate(compared) if path is None or path not in of)
        found: dict[Any, set[int]] = {}
        for number, of in enumerate(compared):
            for operand in of.get(path or "", ()):
                found.setdefault(comparable(operand), set()).add(number)
        self._by_value = {value: tuple(sorted({*numbers, *self._unindexed})) for value, numbers in found.items()}

    @property
    def is_useful(self) -> bool:
        """Whether some table can be left out."""
        return bool(self._path)

    def tables(self, document: Document) -> Numbers:
        """Return the numbers of the tables that may have rows of a document: all that do, and perhaps more."""
        if self._name is not None:
            value = document.get(self._name)
            if type(value) is str:  # the common case
                return self._by_value.get(value, self._unindexed)
        elif not self._path:
            return self._unindexed
        values = set(comparables_at(document, self._path))
        if len(values) == 1:
            return self._by_value.get(values.pop(), self._unindexed)
        return _union(self._by_value.get(value, self._unindexed) for value in values) or self._unindexed

    def tables_of_change(self, before: Document | None, after: Document | None) -> Numbers:
        """Return the numbers of the tables that may have rows of one of two documents; None: no document."""
        if after is None:
            return () if before is None else self.tables(before)
        if before is None:
            return self.tables(after)
        old, new = self.tables(before), self.tables(after)
        return new if old is new else _union((old, new))

    def split(self, documents: Iterable[Document]) -> dict[int, list[Document]]:
        """Return, by the number of a table, the documents of which the table may have rows, in their order."""
        found: dict[int, list[Document]] = {}
        for document in documents:
            for number in self.tables(document):
                if number in found:
                    found[number].append(document)
                else:
                    found[number] = [document]
        return found


def merged_filters(filters: Sequence[Document]) -> list[Document]:
    """Return fewer plain filters, of which one accepts a document exactly if one of the given filters does.

    Filters that differ only in the value of one field become one filter with ``$in``.
    """
    path = _commonest([equalities(one) for one in filters])
    merged: list[Document] = []
    operands: dict[bytes, list[Any]] = {}
    for one in filters:
        chosen = None if path is None else _only_operands(one.get(path, {}))
        if path is None or chosen is None:
            merged.append(one)
            continue
        rest = {name: one[name] for name in sorted(one) if name != path}
        key = bson.encode(rest)
        if key not in operands:
            operands[key] = []
            merged.append({path: {"$in": operands[key]}, **rest})
        operands[key] += chosen
    return merged


def _commonest(compared: Iterable[dict[str, list[Any]]]) -> str | None:
    """Return the path that most filters compare for equality, if there are two such filters."""
    counts = Counter(path for of in compared for path in of)
    path, count = next(iter(counts.most_common(1)), (None, 0))
    return path if count > 1 else None


def _only_operands(condition: Any) -> list[Any] | None:
    """Return the values of a condition that is nothing but an equality or ``$in``."""
    if not isinstance(condition, dict):
        return [condition]
    if len(condition) != 1:
        return None
    operator, operand = next(iter(condition.items()))
    return [operand] if operator == "$eq" else list(operand) if operator == "$in" else None


def _union(each: Iterable[Numbers]) -> Numbers:
    return sorted({number for numbers in each for number in numbers})
