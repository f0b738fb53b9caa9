"""Read the tables of schema documents.

Two forms that one reading serves: the plain one, ``{key: {tableName, columns, primaryKey}}``, and the JSON of Zero's
own schema, where tables have a ``name``, and tables and columns may have a ``serverName``. Either may stand at the top,
under ``tables``, or under ``schema.tables``; other members there and in a table are ignored, unless one is a misspelt
name of the table.

In both a *Zero name* (the key of a table or column) is what clients say, and a *server name* is what is sent to
zero-cache; everything after this module knows server names only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from zmsd.config.document import ConfigDocument, KeyPath
from zmsd.errors import ConfigIssue

TYPES = ("string", "number", "boolean", "json", "null")

COLUMN_KEYS = ("type", "optional", "serverName", "customType", "dataType", "notNull", "pos")
"""What a column has; ``customType`` is in the JSON of Zero's own schema and means nothing here. ``dataType``,
``notNull`` and ``pos`` are of the form that zero-sources exports."""
_DATA_TYPES = {
    **dict.fromkeys(("text", "varchar", "uuid"), "string"),
    **dict.fromkeys(("numeric", "float8", "double precision", "float4", "real"), "number"),
    **dict.fromkeys(("int2", "int4", "int8", "smallint", "integer", "bigint"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("json", "jsonb"), "json"),
}
_NAMES = ("serverName", "tableName", "name")
"""The members that name a table, the first one before the others."""
_NAMES_IN_LOWER_CASE = [name.lower() for name in _NAMES]
_ALIKE, _LONGEST_NAME, _COMPARED = 0.85, 20, 20
"""Similarity (difflib) from which on another member counts as one of these, misspelt; its most characters; and how many
members of a table are compared, because each takes a hundredth of a millisecond."""
_MOST_COLUMNS = 1999
"""SQLite takes 2000 columns, and zero-cache adds one."""


_HIDDEN = re.compile("sqlite.|.litestream.", re.IGNORECASE | re.DOTALL)
_WHITE_SPACE = re.compile("[\\t-\\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+")
"""``\\s+`` of JavaScript."""
UNREADABLE_COLUMN = "__proto__"
"""A column that zero-cache's parser of messages loses: in JavaScript, setting this key sets the prototype."""


def is_hidden(name: str) -> bool:
    """Return whether zero-cache overlooks a table of this name, and fails.

    It lists its tables with NOT LIKE 'sqlite_%' and '_litestream_%', where _ is any character
    (packages/zero-cache/src/db/lite-tables.ts in rocicorp/mono).
    """
    return _HIDDEN.match(name) is not None


def index_name(table: str) -> str:
    """Return the name of the unique index that zero-cache gets with a table."""
    return f"{table}_pkey"


@dataclass(frozen=True, slots=True)
class Column:
    """A column by its server name; ``type`` is one of TYPES."""

    name: str
    type: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table by its server name. The columns of ``primary_key`` are never optional."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SchemaTable:
    """A table of a document. ``spec`` is None if it has errors."""

    key_path: KeyPath
    key: str
    server_name: str
    spec: TableSpec | None
    columns: dict[str, str]
    """Zero name -> server name."""

    def column(self, name: str) -> str | None:
        """Return the server name of a column by either of its names, first Zero's; None for an unknown column."""
        return self.columns.get(name) or (name if name in self.columns.values() else None)


def parse_schema(document: ConfigDocument) -> tuple[list[SchemaTable], list[ConfigIssue]]:
    """Return the tables of a document in its order, and its errors."""
    top, key_path = _tables(document.data)
    if not top:
        return [], [document.issue(key_path, "names no table")]
    if isinstance(top, list) and key_path and all(isinstance(one, dict) for one in top):
        named = [(str(one.get("name")), one, (*key_path, index)) for index, one in enumerate(top)]
    elif isinstance(top, dict):
        named = [(key, data, (*key_path, key)) for key, data in top.items()]
    else:
        return [], [document.issue(key_path, "must be an object of tables")]
    parser = _Parser(document)
    tables = [parser.table(*one) for one in named]
    parser.unique((table.server_name, table.key_path) for table in tables)
    parser.apart_from_indexes(tables)
    return tables, parser.issues


def _tables(data: Any) -> tuple[Any, KeyPath]:
    """Return the object of tables and its key path. A wrapper is an object that is not itself a table."""
    key_path: KeyPath = ()
    for wrapper in ("schema", "tables"):
        inner = data.get(wrapper) if isinstance(data, dict) else None
        if isinstance(inner, dict) and not isinstance(inner.get("primaryKey"), list):
            data, key_path = inner, (*key_path, wrapper)
        elif isinstance(inner, list) and wrapper == "tables":  # as zero-sources exports them
            return inner, (*key_path, wrapper)
    return data, key_path


class _Parser:
    def __init__(self, document: ConfigDocument) -> None:
        self._document = document
        self.issues: list[ConfigIssue] = []

    def table(self, key: str, data: Any, key_path: KeyPath) -> SchemaTable:
        before = len(self.issues)
        if not isinstance(data, dict):
            self._add_issue(key_path, "must be an object with columns and primaryKey")
            return SchemaTable(key_path, key, key, None, {})
        name = self._table_name(key, data, key_path)
        columns = self._columns(data.get("columns"), (*key_path, "columns"))
        primary_key = self._primary_key(data.get("primaryKey"), columns, (*key_path, "primaryKey"))
        specs = tuple(replace(c, optional=c.optional and c.name not in primary_key) for c in columns.values())
        spec = TableSpec(name, specs, primary_key) if len(self.issues) == before else None
        return SchemaTable(key_path, key, name, spec, {zero: column.name for zero, column in columns.items()})

    def unique(self, names: Iterable[tuple[str, KeyPath]]) -> None:
        """Report repeated names. Case does not count: SQLite, which holds zero-cache's replica, ignores it."""
        seen: dict[str, str] = {}
        for name, key_path in names:
            if name.lower() in seen:
                self._add_issue(key_path, f"the server name {name} is taken by {seen[name.lower()]}")
            seen.setdefault(name.lower(), name)

    def apart_from_indexes(self, tables: list[SchemaTable]) -> None:
        """Report tables with the name of another table's index: names of tables and indexes are one set in SQLite."""
        indexes = {index_name(table.server_name).lower(): table.server_name for table in tables}
        for table in tables:
            name = table.server_name
            if name.lower() in indexes:
                self._add_issue(
                    table.key_path, f"zero-cache names an index of {indexes[name.lower()]} {name}: rename it"
                )

    def _table_name(self, key: str, data: dict[str, Any], key_path: KeyPath) -> str:
        for unknown in [member for member in data if member not in _NAMES and len(member) < _LONGEST_NAME][:_COMPARED]:
            if near := difflib.get_close_matches(unknown.lower(), _NAMES_IN_LOWER_CASE, n=1, cutoff=_ALIKE):
                meant = _NAMES[_NAMES_IN_LOWER_CASE.index(near[0])]
                self._add_issue((*key_path, unknown), f"unknown key; did you mean {meant}?")
        member = next((name for name in _NAMES if data.get(name) is not None), None)
        if member:
            key_path = (*key_path, member)
        name = self._name(data[member] if member else key, key_path).removeprefix("public.")
        if "." in name:
            self._add_issue(key_path, f"the server name {name} has a dot: such tables are zero-cache's own")
        if is_hidden(name):
            self._add_issue(key_path, f"zero-cache takes the table {name} for one of SQLite or Litestream: rename it")
        return name

    def _columns(self, data: Any, key_path: KeyPath) -> dict[str, Column]:
        if not isinstance(data, dict) or not data:
            self._add_issue(key_path, "must be an object with at least one column")
            return {}
        if len(data) > _MOST_COLUMNS:
            self._add_issue(key_path, f"are {len(data)}, and zero-cache takes no more than {_MOST_COLUMNS}")
        columns = {key: self._column(key, definition, (*key_path, key)) for key, definition in data.items()}
        self.unique((column.name, (*key_path, key)) for key, column in columns.items())
        return columns

    def _column(self, key: str, data: Any, key_path: KeyPath) -> Column:
        """Return the column; after an error a column of that name, so that the primary key finds it."""
        if not isinstance(data, dict):
            self._add_issue(key_path, f"must be an object with a type ({', '.join(TYPES)})")
            return Column(key, "string")
        for unknown in [member for member in data if member not in COLUMN_KEYS]:
            near = self._document.suggestion(unknown, COLUMN_KEYS) or f"; known: {', '.join(COLUMN_KEYS)}"
            self._add_issue((*key_path, unknown), f"unknown key{near}")
        name = self._name(key if data.get("serverName") is None else data["serverName"], key_path)
        if name.lower() == "_0_version":
            self._add_issue(key_path, "_0_version is zero-cache's own column")
        if name == UNREADABLE_COLUMN:
            self._add_issue(key_path, f"zero-cache cannot read a column of the name {name}: rename it")
        kind, optional = data.get("type"), data.get("optional")
        if optional is None and ("notNull" in data or (kind is None and "dataType" in data)):
            optional = not data.get("notNull")
        if kind is None and data.get("dataType") is not None:
            kind = _DATA_TYPES.get(str(data["dataType"]))
            if kind is None:
                known = ", ".join(_DATA_TYPES)
                self._add_issue((*key_path, "dataType"), f"must be one of {known}, got {data['dataType']!r}")
                kind = "string"
        if kind not in TYPES:
            self._add_issue(
                (*key_path, "type"), f"must be one of {', '.join(TYPES)}" + (f", got {kind!r}" if kind else "")
            )
            kind = "string"
        if not isinstance(optional, bool | None):
            self._add_issue((*key_path, "optional"), "must be true or false")
        return Column(name, kind, optional is True)

    def _primary_key(self, data: Any, columns: dict[str, Column], key_path: KeyPath) -> tuple[str, ...]:
        if not isinstance(data, list) or not data:
            self._add_issue(key_path, "must be a list of at least one column")
            return ()
        names: list[str] = []
        for index, key in enumerate(data):
            column = columns.get(key) if isinstance(key, str) else None
            if column is None:
                known = self._document.suggestion(key, columns) if isinstance(key, str) else ""
                self._add_issue((*key_path, index), f"{key!r} is not a column of this table{known}")
            elif column.type in ("json", "null"):
                self._add_issue((*key_path, index), f"a column of type {column.type} cannot be in a primary key")
            elif column.name in names:
                self._add_issue((*key_path, index), f"{key} is given twice")
            else:
                names.append(column.name)
        return tuple(names)

    def _name(self, name: Any, key_path: KeyPath) -> str:
        if isinstance(name, str) and name and "\0" not in name:
            # zero-cache makes each run of white space in a SQL statement one space (packages/zqlite/src/internal/
            # statement-cache.ts in rocicorp/mono), and exits because it finds no table or column of that name.
            if (taken_for := _WHITE_SPACE.sub(" ", name)) != name:
                self._add_issue(key_path, f"zero-cache takes the name {name!r} for {taken_for!r}: rename it")
            return name
        self._add_issue(key_path, f"its server name must be text without a NUL in it, got {name!r}")
        return str(key_path[-1])

    def _add_issue(self, key_path: KeyPath, reason: str) -> None:
        self.issues.append(self._document.issue(key_path, reason))
