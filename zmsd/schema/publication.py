"""The publication, which is everything that zmsd publishes, and the difference between two of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from zmsd.schema.catalog import Catalog, Table, extended_json
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec


class Publication(NamedTuple):
    """Tables, mappings, permissions and mutation collections, as plain values that can be stored and compared."""

    catalog: Catalog
    permissions: Any = None
    """For zero-cache's permissions row; None: there are none."""
    clients_collection: str | None = None
    mutations_collection: str | None = None

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 in hexadecimal that identifies the publication."""
        rest = json.dumps(self[1:], sort_keys=True)
        return hashlib.sha256(f"{self.catalog.fingerprint} {rest}".encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text that the store keeps under the fingerprint."""
        return json.dumps([self.catalog.to_json(), *self[1:]])

    @staticmethod
    def from_json(text: str) -> Publication:
        """Read what ``to_json`` returned. Raises ValueError, TypeError, KeyError or AttributeError for other text."""
        catalog, *rest = json.loads(text)
        return Publication(Catalog.from_json(catalog), *rest)


@dataclass(frozen=True, slots=True)
class TableChange:
    """The difference of a table that is in both publications."""

    old: Table
    new: Table
    added: tuple[Column, ...]
    dropped: tuple[Column, ...]
    remapped: bool
    """Whether kept columns, or the set of rows, are read from elsewhere than before."""


@dataclass(frozen=True, slots=True)
class PublicationDiff:
    """The difference between two publications."""

    added: tuple[Table, ...]
    dropped: tuple[Table, ...]
    changed: tuple[TableChange, ...]
    system_tables: tuple[str, ...]
    """``clients``, ``mutations``: those of zero-cache's own tables that are read from another collection."""
    permissions: bool
    """Whether the permissions differ."""
    incompatible: tuple[str, ...]
    """Reasons why Zero's protocol cannot express the difference as a change; then a new initial sync is needed."""

    @property
    def refilled(self) -> tuple[Table, ...]:
        """Return the tables that are in both publications and need all their rows sent again."""
        return tuple(change.new for change in self.changed if change.added or change.remapped)


def diff(old: Publication, new: Publication) -> PublicationDiff:
    """Compare two publications. A column that became optional or required is equal: zmsd sends both alike."""
    before, after = ({table.name: table for table in one.catalog.tables} for one in (old, new))
    kept = [(before[name], after[name]) for name in before if name in after]
    changes = [_change(one, other) for one, other in kept]
    collections = (
        ("clients", old.clients_collection, new.clients_collection),
        ("mutations", old.mutations_collection, new.mutations_collection),
    )
    return PublicationDiff(
        added=tuple(table for name, table in after.items() if name not in before),
        dropped=tuple(table for name, table in before.items() if name not in after),
        changed=tuple(change for change in changes if change.added or change.dropped or change.remapped),
        system_tables=tuple(kind for kind, one, other in collections if one != other),
        permissions=old.permissions != new.permissions,
        incompatible=tuple(reason for one, other in kept for reason in _incompatible(one.spec, other.spec)),
    )


def _change(old: Table, new: Table) -> TableChange:
    before, after = ({column.name: column for column in table.spec.columns} for table in (old, new))
    both = before.keys() & after.keys()
    return TableChange(
        old,
        new,
        added=tuple(column for name, column in after.items() if name not in before),
        dropped=tuple(column for name, column in before.items() if name not in after),
        remapped=_meaning(old.mapping, both) != _meaning(new.mapping, both),
    )


def _meaning(mapping: Mapping, columns: set[str]) -> tuple[Any, ...]:
    """Return what decides the values of ``columns`` and the set of rows."""
    fields = {name: path for name, path in mapping.fields or () if name in columns}
    projection = {name: extended_json(value) for name, value in (mapping.projection or {}).items() if name in columns}
    rows_of = mapping.collection, extended_json(mapping.filter), extended_json(mapping.pipeline), mapping.revision
    return *rows_of, fields, projection


def _incompatible(old: TableSpec, new: TableSpec) -> list[str]:
    reasons = []
    if old.primary_key != new.primary_key:
        reasons.append(
            f"table {new.name}: its primary key was {', '.join(old.primary_key)}, is {', '.join(new.primary_key)}"
        )
    types = {column.name: column.type for column in old.columns}
    for column in new.columns:
        if (was := types.get(column.name, column.type)) != column.type:
            reasons.append(f"table {new.name}: the type of column {column.name} was {was}, is {column.type}")
    return reasons
