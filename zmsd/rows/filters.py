"""Evaluate plain filters as MongoDB does: conjunctions of equality, $in, $ne, $nin and $exists on scalars.

mongod evaluates all other filters (``computed``). A differential test compares this module with mongod's ``find``.

Reference: https://www.mongodb.com/docs/manual/reference/bson-type-comparison-order/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import bson
from bson import Binary, DBRef, Decimal128, Int64, ObjectId, Timestamp
from bson.code import Code
from bson.datetime_ms import DatetimeMS

from zmsd.rows.bson_json import milliseconds

Predicate = Callable[[dict[str, Any]], bool]


def compile_filter(conditions: dict[str, Any]) -> Predicate:
    """Return a function that returns whether a document matches a plain filter (``Mapping.plain``)."""
    tests = [
        _test(tuple(path.split(".")), operator, operand)
        for path, condition in conditions.items()
        for operator, operand in (condition.items() if _is_operators(condition) else (("$eq", condition),))
    ]
    if len(tests) == 1:
        return tests[0]
    return lambda document: all(test(document) for test in tests)


def equalities(conditions: dict[str, Any]) -> dict[str, list[Any]]:
    """Return path -> the values of which a document must have one there, for the paths that a plain filter compares so.

    A document that has none of the values does not match. One that has may still fail another condition.
    """
    found: dict[str, list[Any]] = {}
    for path, condition in conditions.items():
        if not _is_operators(condition):
            found[path] = [condition]
        elif "$eq" in condition:
            found[path] = [condition["$eq"]]
        elif "$in" in condition:
            found[path] = list(condition["$in"])
    return found


def comparables_at(document: dict[str, Any], path: tuple[str, ...]) -> Iterator[Any]:
    """Yield what a plain filter compares with its operands at a path, as ``comparable`` returns it."""
    return _comparables(document, path, 0)


def identity(value: Any) -> Any:
    """Return a value that is equal for two ``_id`` exactly if MongoDB takes them for the same ``_id``.

    Scalars compare as in ``comparable``, objects by their fields in order.
    """
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
    found = comparable(value)
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
    """Return a test for equality with one of the operands, of the value itself or of an element of it."""
    wanted = frozenset(map(comparable, operands))
    texts = frozenset(value for value in operands if type(value) is str)
    null = any(value is None for value in operands)

    def test(document: dict[str, Any]) -> bool:
        value = document.get(path[0])
        if type(value) is str and len(path) == 1:  # the common case: a discriminator
            return value in texts
        return _matches(document, path, 0, wanted, null)

    return test


def _matches(value: Any, path: tuple[str, ...], depth: int, wanted: frozenset[Any], null: bool) -> bool:
    """Follow a path as MongoDB's matcher does: into the objects of an array, but not into an array in an array."""
    if depth == len(path):
        if isinstance(value, list):
            return any(comparable(item) in wanted for item in value)
        return comparable(value) in wanted
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, dict):
        if path[depth] not in value:
            return null
        return _matches(value[path[depth]], path, depth + 1, wanted, null)
    if isinstance(value, list):
        return any(_matches(item, path, depth, wanted, null) for item in value if isinstance(item, (dict, DBRef)))
    return null


def _comparables(value: Any, path: tuple[str, ...], depth: int) -> Iterator[Any]:
    """Follow a path as ``_matches`` does."""
    if depth == len(path):
        yield from map(comparable, value if isinstance(value, list) else (value,))
        return
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, dict) and path[depth] in value:
        yield from _comparables(value[path[depth]], path, depth + 1)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, DBRef)):
                yield from _comparables(item, path, depth)
    else:
        yield None


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
"""Stands for values that equal no operand: objects, arrays, and types that plain filters do not compare."""


def comparable(value: Any) -> Any:
    """Return a hashable value that is equal for two scalars exactly if MongoDB compares them as equal.

    Numbers of all types compare by value, all other types only with their own.
    """
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
