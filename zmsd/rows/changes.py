"""Compare the rows of a document before and after a change, and return the row changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from zmsd.rows.plain import Row


class RowChange(NamedTuple):
    """One change of a row. Keys and rows are JSON objects as text (``plain.Row``)."""

    tag: str
    """``insert``, ``update`` or ``delete``."""
    key: str | None
    """The old key of a deleted row, or of an updated row whose key changed; otherwise None."""
    new: str | None
    """The new row; None for a delete."""


def between(before: Row | None, after: Row | None) -> RowChange | None:
    """Return the change from at most one row to at most one row, or None if they are equal."""
    if before is None:
        return None if after is None else RowChange("insert", None, after[1])
    if after is None:
        return RowChange("delete", before[0], None)
    if before[1] == after[1]:
        return None
    return RowChange("update", before[0] if before[0] != after[0] else None, after[1])


def between_many(before: list[Row], after: list[Row]) -> Iterator[RowChange]:
    """Yield the changes from any number of rows to any number, by their keys; deletes come first."""
    if len(before) < 2 and len(after) < 2:
        change = between(before[0] if before else None, after[0] if after else None)
        if change is not None:
            yield change
        return
    old, new = dict(before), dict(after)
    for key in old:
        if key not in new:
            yield RowChange("delete", key, None)
    for key, text in new.items():
        if key not in old:
            yield RowChange("insert", None, text)
        elif old[key] != text:
            yield RowChange("update", None, text)
