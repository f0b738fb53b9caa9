"""Compute the rows of plain mappings a second time, independently of zmsd, and compare them with a replica."""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from bson import Binary, Decimal128, ObjectId
from pymongo.database import Database

from zmsd.commands.strict_replica import Replica
from zmsd.commands.strict_tables import Key, Row


def differences(database: Database[dict[str, Any]], schema: Any, mappings: Any, replica: Replica) -> list[str]:
    """Return the first differences, by table and row. Nothing may write meanwhile."""
    found: list[str] = []
    for name, spec in schema.items():
        table = spec.get("tableName", name)
        expected = expected_rows(database, spec, (mappings or {}).get(name) or {"collection": table})
        actual = replica.rows.get(table)
        if actual is None:
            found.append(f"there is no table {table}")
            continue
        for key in expected.keys() | actual.keys():
            if expected.get(key) != actual.get(key) and len(found) < 10:
                found.append(f"{table} {key}: {actual.get(key)} instead of {expected.get(key)}")
    return found


def assert_same(database: Database[dict[str, Any]], schema: Any, mappings: Any, replica: Replica) -> None:
    found = differences(database, schema, mappings, replica)
    assert not found, "\n".join(["the replica is not what MongoDB holds:", *found])


def expected_rows(database: Database[dict[str, Any]], spec: Any, mapping: Any) -> dict[Key, Row]:
    """Return {key: row} of one table under a mapping of the form {collection, fields, filter}."""
    fields = mapping.get("fields", {})
    rows = {}
    for doc in database[mapping["collection"]].find(mapping.get("filter", {})):
        row = {
            column: _value(_at(doc, fields.get(column, column)), kind["type"])
            for column, kind in spec["columns"].items()
        }
        key = tuple(row[column] for column in spec["primaryKey"])
        if None not in key:
            rows[key] = row
    return rows


def _at(doc: Any, path: str) -> Any:
    for step in path.split("."):
        doc = doc.get(step) if isinstance(doc, dict) else None
    return doc


def _value(value: Any, kind: str) -> Any:
    """Return the value in a column of this type; json columns as the replica keeps them, parsed."""
    match kind, value:
        case _, None:
            return None
        case "json", _:
            return json.loads(json.dumps(_jsonable(value)))
        case "boolean", bool():
            return value
        case "number", datetime():
            return _milliseconds(value)
        case "number", Decimal128():
            return _number(float(value.to_decimal()))
        case "number", int() | float() if not isinstance(value, bool):
            return _number(value)
        case "string", str():
            return value
        case "string", ObjectId() | Decimal128() | UUID():
            return str(value)
        case "string", datetime():
            return _iso(value)
        case "string", Binary() | bytes():
            return _jsonable(value)
        case "string", bool():
            return str(value).lower()
        case "string", int():
            return str(value)
        case "string", float():
            return _javascript(value)
    return None  # it does not fit


def _javascript(value: float) -> str:
    """Return a number as text, by ECMA-262, Number::toString."""
    if math.isnan(value) or not value:
        return "NaN" if value else "0"
    sign = "-" if value < 0 else ""
    if math.isinf(value):
        return f"{sign}Infinity"
    _, numbers, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits = "".join(map(str, numbers))
    k, n = len(digits), len(digits) + int(exponent)
    if k <= n <= 21:
        text = digits + "0" * (n - k)
    elif 0 < n <= 21:
        text = f"{digits[:n]}.{digits[n:]}"
    elif -6 < n <= 0:
        text = f"0.{'0' * -n}{digits}"
    else:
        text = f"{digits[0]}{'.' if k > 1 else ''}{digits[1:]}e{n - 1:+d}"
    return sign + text


def _jsonable(value: Any) -> Any:
    match value:
        case dict():
            return {key: _jsonable(inner) for key, inner in value.items()}
        case list():
            return [_jsonable(inner) for inner in value]
        case ObjectId() | UUID() | Decimal128():
            return str(value)
        case datetime():
            return _iso(value)
        case int() | float() if not isinstance(value, bool):
            return _number(value)
        case Binary() if value.subtype == 4:
            return str(value.as_uuid())
        case bytes():
            return base64.b64encode(value).decode()
    return value


def _number(value: float) -> float | None:
    """Return the number that JavaScript can represent."""
    if isinstance(value, int):
        return value if abs(value) <= 1 << 53 else float(value)
    return value if math.isfinite(value) else None


def _milliseconds(value: datetime) -> int:
    return round(value.replace(tzinfo=UTC).timestamp() * 1000)


def _iso(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds") + "Z"
