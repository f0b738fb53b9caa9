"""What a difference between two publications does to a replica, in a few words for the log, and as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zmsd.schema.publication import Publication, PublicationDiff, TableChange

Estimate = Callable[[str], str]
"""Collection -> how many documents it has, in words."""


def fields(between: PublicationDiff, new: Publication) -> dict[str, object]:
    """Return the fields of a log line: ``added=note changed=message(+extra) unchanged=3``.

    In a changed table ``+`` is an added column, ``-`` a dropped one, and ``~`` means that its rows are read from
    elsewhere.
    """
    shown = {
        "added": ",".join(table.name for table in between.added),
        "dropped": ",".join(table.name for table in between.dropped),
        "changed": ",".join(f"{change.new.name}({','.join(_signs(change))})" for change in between.changed),
        "system_tables": ",".join(between.system_tables),
        "permissions": "changed" if between.permissions else "",
        "reset_required": "; ".join(between.incompatible),
    }
    return {name: text for name, text in shown.items() if text} | {"unchanged": unchanged(between, new)}


def unchanged(between: PublicationDiff, new: Publication) -> int:
    """Return the number of tables that stay as they are."""
    return len(new.catalog.tables) - len(between.added) - len(between.changed)


def lines(between: PublicationDiff, new: Publication, estimate: Estimate) -> Iterator[str]:
    """Yield a line for each thing that the difference does to a replica."""
    for reason in between.incompatible:
        yield f"reset-required: {reason}: clients make a new initial sync"
    for table in between.dropped:
        yield f"drop table {table.name}"
    for table in between.added:
        yield f"add table {table.name}: read {table.mapping.collection}, {estimate(table.mapping.collection)}"
    for change in between.changed:
        yield f"change table {change.new.name}: {', '.join(_steps(change, estimate))}"
    for name in between.system_tables:
        yield f"read zero-cache's table {name} again, from another collection"
    if between.permissions:
        yield "send other permissions"
    if count := unchanged(between, new):
        yield f"unchanged: {count} table{'' if count == 1 else 's'}"


def _signs(change: TableChange) -> list[str]:
    signs = [f"+{column.name}" for column in change.added] + [f"-{column.name}" for column in change.dropped]
    return [*signs, "~"] if change.remapped else signs


def _steps(change: TableChange, estimate: Estimate) -> Iterator[str]:
    yield from (f"add column {column.name} ({column.type})" for column in change.added)
    yield from (f"drop column {column.name}" for column in change.dropped)
    if change.added or change.remapped:
        collection = change.new.mapping.collection
        yield f"read {collection} again, {estimate(collection)}"
