"""The tables of a strict replica: columns, keys, and whether a row fits them. No I/O."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass, field
from typing import Any

from zmsd.errors import Violation

Row = dict[str, Any]
Key = tuple[Any, ...]

_TYPES = ("text", "double precision", "boolean", "json", "int8")
_INT64 = 1 << 63
_SAFE = 1 << 53


def require(fact: object, otherwise: str) -> None:
    """Raise Violation with the text ``otherwise`` if a fact is false."""
    if not fact:
        raise Violation(otherwise)


@dataclass(slots=True)
class TableShape:
    """A table."""

    name: str
    columns: dict[str, dict[str, Any]]
    """Column -> its specification as sent."""
    key: tuple[str, ...] = ()
    """The columns of its only unique index."""

    def row_of(self, new: Row, json_format: str) -> Row:
        """Return the row with json columns parsed. Raises Violation for unknown columns and values that do not fit."""
        return {name: self._value(name, value, json_format) for name, value in new.items()}

    def key_of(self, row: Row, json_format: str, *, only: bool = False) -> Key:
        """Return the row's key. Raises Violation.

        :param only: the row was sent as a key, is unchecked, and must have no other columns
        """
        missing = [name for name in self.key if row.get(name) is None]
        require(not missing, f"the row key of {self.name} has no {', '.join(missing)}")
        if only:
            require(row.keys() == set(self.key), f"the key of {self.name} is {self.key}")
            row = self.row_of(row, json_format)
        return tuple(row[name] for name in self.key)

    def _value(self, name: str, value: Any, json_format: str) -> Any:
        require(name in self.columns, f"{self.name} has no column {name}")
        column = self.columns[name]
        if value is None:
            require(not column.get("notNull"), f"null in the notNull column {self.name}.{name}")
            return None
        match column["dataType"]:
            case "text":
                require(isinstance(value, str), f"{self.name}.{name} is not text")
                require("\0" not in value or name not in self.key, f"NUL in the key {self.name}.{name}")
            case "boolean":
                require(isinstance(value, bool), f"{self.name}.{name} is not a boolean")
            case "double precision" | "int8":
                require(type(value) in (int, float) and math.isfinite(value), f"{self.name}.{name} is not a number")
                limit = _INT64 if column["dataType"] == "double precision" else _SAFE
                require(not isinstance(value, int) or abs(value) < limit, f"{self.name}.{name} is too big")
            case "json" if json_format == "s":
                require(isinstance(value, str), f"{self.name}.{name} is not a JSON string")
                require(_unicode(value), f"a lone surrogate in {self.name}.{name}")
                return json.loads(value, parse_constant=lambda constant: require(False, f"{constant} is not JSON"))
        require(not isinstance(value, str) or _unicode(value), f"a lone surrogate in {self.name}.{name}")
        return value


@dataclass(slots=True)
class Shapes:
    """All tables as of one commit."""

    tables: dict[str, TableShape] = field(default_factory=dict)
    indexes: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)  # name: (table, columns)

    def copy(self) -> Shapes:
        """Return an independent copy."""
        return copy.deepcopy(self)

    def of_relation(self, relation: dict[str, Any]) -> TableShape:
        """Return the table that a relation names. Both forms of the key must be present and be the table's."""
        require(relation["schema"] == "public", "a relation outside of the schema public")
        shape = self._table(relation["name"])
        require(shape.key, f"rows for {shape.name} before it has a unique index")
        for columns in (relation["rowKey"]["columns"], relation["keyColumns"]):
            require(sorted(columns) == sorted(shape.key), f"the key of {shape.name} is {shape.key}, not {columns}")
        return shape

    def change(self, tag: str, body: dict[str, Any]) -> str:
        """Apply a schema change and return its table. Raises Violation for what zero-cache would not survive."""
        match tag:
            case "create-table":
                return self._create_table(body["spec"])
            case "create-index":
                return self._create_index(body["spec"])
            case "drop-index":
                table, columns = self.indexes.pop(_name(body["id"]))
                if self._table(table).key == columns:
                    self._table(table).key = ()
                return table
            case "drop-table":
                name = self._table(_name(body["id"])).name
                del self.tables[name]
                self.indexes = {index: known for index, known in self.indexes.items() if known[0] != name}
                return name
            case "add-column":
                shape = self._table(_name(body["table"]))
                column = body["column"]["name"]
                require(column not in shape.columns, f"{shape.name} already has the column {column}")
                require(not body["column"]["spec"].get("notNull"), f"old rows have no {column}: it cannot be notNull")
                shape.columns[column] = _column(column, body["column"]["spec"])
                return shape.name
            case "drop-column":
                shape = self._table(_name(body["table"]))
                column = body["column"]
                require(column in shape.columns, f"{shape.name} has no column {column}")
                used = any(table == shape.name and column in columns for table, columns in self.indexes.values())
                require(not used, f"an index of {shape.name} uses the column {column}")
                del shape.columns[column]
                return shape.name
        raise Violation(f"an unknown data message {tag}")

    def check_keys(self) -> None:
        """Raise Violation if a table has no unique index."""
        for shape in self.tables.values():
            require(shape.key, f"{shape.name} has no unique index")

    def _table(self, name: str) -> TableShape:
        require(name in self.tables, f"an unknown table {name}")
        return self.tables[name]

    def _create_table(self, spec: dict[str, Any]) -> str:
        name = _name(spec)
        require(name not in self.tables, f"{name} exists")
        require(spec["columns"], f"{name} has no columns")
        columns = {column: _column(column, known) for column, known in spec["columns"].items()}
        require(
            set(spec.get("primaryKey") or ()) <= columns.keys(), f"the primary key of {name} is not among its columns"
        )
        self.tables[name] = TableShape(name, columns)
        return name

    def _create_index(self, spec: dict[str, Any]) -> str:
        name, shape = _name(spec), self._table(spec["tableName"])
        require(name not in self.indexes, f"the index {name} exists")
        require(all(order in ("ASC", "DESC") for order in spec["columns"].values()), "an index is ASC or DESC")
        columns = tuple(spec["columns"])
        require(columns and set(columns) <= shape.columns.keys(), f"{shape.name} has no {columns}")
        self.indexes[name] = (shape.name, columns)
        if spec["unique"]:
            require(
                not shape.key, f"a second unique index on {shape.name}: an insert would delete other rows in silence"
            )
            nullable = [column for column in columns if not shape.columns[column].get("notNull")]
            require(not nullable, f"the unique index {name} is over nullable columns: {nullable}")
            shape.key = columns
        return shape.name


def _name(identifier: dict[str, Any]) -> str:
    require(identifier["schema"] == "public", "a name outside of the schema public")
    name: str = identifier["name"]
    require(isinstance(name, str) and name, "a name is missing")
    return name


def _column(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    require(isinstance(spec["pos"], int), f"the column {name} has no pos")
    require(spec["dataType"] in _TYPES, f"the column {name} has the type {spec['dataType']}")
    require(isinstance(spec.get("notNull", False), bool), f"notNull of the column {name} is not a boolean")
    require(spec.get("dflt") is None, f"the column {name} has a default")
    return spec


def _unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
