"""Plain filters in Python, with MongoDB's meaning: conjunctions of equality, $in, $ne, $nin and $exists on scalars.

Everything else is mongod's to evaluate (computed.py). A differential test holds this module to mongod's own ``find``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import bson
from bson import Binary, DBRef, Decimal128, Int64, ObjectId, Timestamp
from bson.code import Code
from bson.datetime_ms import DatetimeMS

from zmsd.rows.bson_json import milliseconds

Predicate = Callable[[dict[str, Any]], bool]


def compile_filter(conditions: dict[str, Any]) -> Predicate:
    """A function that says whether a document matches. The filter must be plain (Mapping.plain)."""
    tests = [
        _test(tuple(path.split(".")), operator, operand)
        for path, condition in conditions.items()
        for operator, operand in (condition.items() if _is_operators(condition) else (("$eq", condition),))
    ]
    if len(tests) == 1:
        return tests[0]
    return lambda document: all(test(document) for test in tests)


def identity(value: Any) -> Any:
    """A stand-in for an ``_id`` that is equal where two are one for MongoDB: as _comparable, objects by their fields in
    their order."""
    if type(value) in _OWN_IDENTITY:
        return value
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, dict):
        return dict, [(name, identity(item)) for name, item in value.items()]
    if isinstance(value, list):
        return list, [identity(item) for item in value]
    if isinstance(value, Code):
        return Code, str(value), identity(value.scope)
    found = _comparable(value)
    return bson.encode({"": value}) if found is _NEVER else found


def _is_operators(condition: Any) -> bool:
    return isinstance(condition, dict) and any(key.startswith("$") for key in condition)


def _test(path: tuple[str, ...], operator: str, operand: Any) -> Predicate:
    if operator == "$exists":
        return lambda document: _exists(document, path, 0) is bool(operand)
    if operator == "$ne":
        return _negated(_any_of(path, (operand,)))
    if operator == "$nin":
        return _negated(_any_of(path, operand))
    return _any_of(path, operand if operator == "$in" else (operand,))


def _negated(test: Predicate) -> Predicate:
    return lambda document: not test(document)


def _any_of(path: tuple[str, ...], operands: Any) -> Predicate:
    """Equality with one of the operands, on the value itself or on an element of it."""
    wanted = frozenset(map(_comparable, operands))
    texts = frozenset(value for value in operands if type(value) is str)
    null = any(value is None for value in operands)

    def test(document: dict[str, Any]) -> bool:
        value = document.get(path[0])
        if type(value) is str and len(path) == 1:  # the common case: a discriminator
            return value in texts
        return _matches(document, path, 0, wanted, null)

    return test


def _matches(value: Any, path: tuple[str, ...], depth: int, wanted: frozenset[Any], null: bool) -> bool:
    """Walks as MongoDB's matcher does: one array on the way is looked into, an array inside of an array is not."""
    if depth == len(path):
        if isinstance(value, list):
            return any(_comparable(item) in wanted for item in value)
        return _comparable(value) in wanted
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, dict):
        if path[depth] not in value:
            return null
        return _matches(value[path[depth]], path, depth + 1, wanted, null)
    if isinstance(value, list):
        return any(_matches(item, path, depth, wanted, null) for item in value if isinstance(item, (dict, DBRef)))
    return null


def _exists(value: Any, path: tuple[str, ...], depth: int) -> bool:
    if depth == len(path):
        return True
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, dict):
        return path[depth] in value and _exists(value[path[depth]], path, depth + 1)
    if isinstance(value, list):
        return any(_exists(item, path, depth) for item in value if isinstance(item, (dict, DBRef)))
    return False


_OWN_IDENTITY = frozenset((str, ObjectId, int, Int64))
_NEVER = (object(),)
"""Equal to no operand: objects, arrays, and what plain filters cannot ask for (some of it is not hashable)."""


def _comparable(value: Any) -> Any:
    """A hashable stand-in that is equal where MongoDB calls two scalars equal: numbers by value, all else by type."""
    if value is None or type(value) is str or isinstance(value, ObjectId):
        return value
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, Decimal128):
        number = value.to_decimal()
        return (float, "NaN") if number.is_nan() else number
    if isinstance(value, (int, float)):  # Python, too, compares these and Decimals exactly
        return (float, "NaN") if value != value else value
    if isinstance(value, (datetime, DatetimeMS)):
        return (datetime, milliseconds(value))
    if isinstance(value, bytes):
        return (bytes, value.subtype if isinstance(value, Binary) else 0, bytes(value))
    return (Timestamp, value) if isinstance(value, Timestamp) else _NEVER
