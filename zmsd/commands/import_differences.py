"""Where a mapping document of zero-sources means something else in zmsd.

zero-sources evaluates filters and expressions itself, in ``libs/zero-source-mongodb/src/utils/table-mapping.ts`` and
``src/v0/pipeline-executor.service.ts`` of cbnsndwch/zero-sources; zmsd has them evaluated as MongoDB defines them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zmsd.config.document import KeyPath
from zmsd.errors import ConfigIssue
from zmsd.schema.catalog import Catalog

_COMPARISONS = ("$gt", "$gte", "$lt", "$lte")
_TESTED = ("$eq", "$ne", "$in", "$nin", *_COMPARISONS, "$exists", "$regex")
"""Operators of filters that zero-sources knows."""
_CONVERTED = ("$toString", "$toInt", "$toLong", "$toDouble", "$toBool", "$toDate", "$toObjectId", "$type", "$convert")
"""Operators of projections that zero-sources knows, besides $hexToBase64Url."""
_COMPUTED = ("$concat", "$eq", "$ne", *_COMPARISONS, "$add", "$subtract", "$multiply", "$divide", "$cond")
"""Operators of $addFields that zero-sources knows."""
_STAGES = ("$match", "$unwind", "$addFields", "$project")
_REJECTED = "MongoDB refuses that, and zmsd rejects the row"
_OTHERWISE = {
    "$toInt": f'zero-sources makes 12 of "12abc" and nothing of "abc"; {_REJECTED}',
    "$toLong": f'zero-sources makes 12 of "12abc" and nothing of "abc"; {_REJECTED}',
    "$toDouble": f'zero-sources makes 1.5 of "1.5kg" and nothing of "kg"; {_REJECTED}',
    "$toBool": 'zero-sources makes false of ""; MongoDB makes true of every text',
    "$toDate": f"zero-sources makes nothing of text that is not a date; {_REJECTED}",
    "$toObjectId": f"zero-sources takes any text; {_REJECTED} unless the text has 24 hexadecimal digits",
    "$type": 'zero-sources says "undefined" of a missing field, and int of every whole number; MongoDB says "missing"'
    " and the BSON type",
    "$divide": f"zero-sources makes null of a division by zero; {_REJECTED}",
    "$concat": "zero-sources leaves out a part that is null or missing; with MongoDB the result is null then",
}
"""Operator -> how its result differs."""


def differences(catalog: Catalog) -> Iterator[ConfigIssue]:
    """Yield each part of the mappings that means something else, with its position.

    :param catalog: of documents that have just been read
    """
    for table in catalog.tables:
        mapping = table.mapping
        if mapping.origin is None:
            continue
        data: Any = mapping.origin.document.data
        for key in mapping.origin.key_path:
            data = data[key]
        for path, reason in _of_mapping(data):
            yield mapping.issue(path, reason)


_Found = Iterator[tuple[KeyPath, str]]


def _of_mapping(data: dict[str, Any]) -> _Found:
    yield from _of_filter(data.get("filter") or {}, ("filter",))
    yield from _of_projection(data.get("projection") or {}, ("projection",))
    for index, stage in enumerate(data.get("pipeline") or ()):
        name, content = next(iter(stage.items()))
        path: KeyPath = ("pipeline", index, name)
        if name not in _STAGES:
            yield path, "zero-sources skips this stage; zmsd does not"
        elif name == "$match":
            yield from _of_filter(content, path)
        elif name == "$project":
            yield from _of_projection(content, path)
        elif name == "$addFields":
            yield from _of_expression(content, path)


def _of_filter(condition: dict[str, Any], path: KeyPath) -> _Found:
    for key, value in condition.items():
        here = (*path, key)
        operators = list(value) if isinstance(value, dict) and next(iter(value), "").startswith("$") else ["$eq"]
        first = operators[0]
        operand = value[first] if isinstance(value, dict) and first in value else value
        if key.startswith("$"):
            yield here, f"zero-sources does not know {key} and finds no document; zmsd does"
        elif first not in _TESTED:
            yield here, f"zero-sources does not know {first} and finds no document; zmsd does"
        elif len(operators) > 1:
            yield here, f"zero-sources tests {first} only; zmsd tests {' and '.join(operators)}"
        elif first in _COMPARISONS and (isinstance(operand, bool) or not isinstance(operand, int | float)):
            yield here, f"{first} of zero-sources compares numbers only and finds no document; zmsd compares any type"
        elif first in ("$eq", "$ne") and isinstance(operand, dict | list):
            yield here, "an object or list equals nothing in zero-sources; zmsd compares its content"
        elif operand is None or (isinstance(operand, list) and None in operand):
            yield here, "null is not a missing field in zero-sources; in zmsd, as in MongoDB, it is"


def _of_projection(projection: dict[str, Any], path: KeyPath) -> _Found:
    for key, value in projection.items():
        here = (*path, key)
        operator = next(iter(value), "") if isinstance(value, dict) else ""
        if isinstance(value, str) and value.startswith("$"):
            yield here, "zero-sources leaves out a renamed field; zmsd sends it"
        elif operator in _OTHERWISE:
            yield here, _OTHERWISE[operator]
        elif operator.startswith("$") and operator not in (*_CONVERTED, "$hexToBase64Url"):
            yield here, f"zero-sources does not know {operator} and leaves the field out; zmsd sends it"


def _of_expression(value: Any, path: KeyPath) -> _Found:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _of_expression(item, (*path, index))
    for key, operand in value.items() if isinstance(value, dict) else ():
        here = (*path, key)
        if key in _OTHERWISE and key in _COMPUTED:
            yield here, _OTHERWISE[key]
        elif key.startswith("$") and key not in _COMPUTED:
            yield here, f"zero-sources does not know {key} and makes null; zmsd computes it"
        yield from _of_expression(operand, here)
