from __future__ import annotations

import itertools
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from re import compile as regex
from typing import Any

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp

import zmsd
from zmsd.bson_types import BSON_TYPES, EMPTY, MAX_EXACT_INTEGER, BsonType, fits, is_compared, type_name, type_of
from zmsd.rows import bson_json
from zmsd.rows.filters import _NEVER, comparable

README = Path(zmsd.__file__).parent.parent / "README.rst"
COLUMN_TYPES = ("string", "number", "boolean", "json")
SAMPLES: dict[str, Any] = {
    "string": "x",
    "symbol": "x",
    "int": 1,
    "long": Int64(MAX_EXACT_INTEGER + 1),
    "double": math.nan,
    "decimal": Decimal128("1.10"),
    "bool": True,
    "date": datetime(2024, 2, 29),
    "timestamp": Timestamp(1, 1),
    "objectId": ObjectId(),
    "binData": b"x",
    "regex": Regex("x"),
    "javascript": Code("x"),
    "javascriptWithScope": Code("x", {}),
    "object": {"a": 1},
    "array": [1],
    "dbPointer": DBRef("a", 1),
    "minKey": MinKey(),
    "maxKey": MaxKey(),
    "null": None,
    "undefined": None,
}
"""A value of each type, as pymongo decodes it."""


def readme_table() -> list[list[str]]:
    """Return the lines that README.rst must have: types with the same cells in one line."""
    rows: dict[tuple[str | None, ...], list[str]] = {}
    for kind in BSON_TYPES:
        rows.setdefault((kind.string, kind.number, kind.boolean, kind.json), []).append(kind.name)
    return [[", ".join(names), *(cell or "--" for cell in cells)] for cells, names in rows.items()]


def test_readme_table_equals_the_table_of_types() -> None:
    lines = README.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    BSON type")) + 1
    found = list(itertools.takewhile(str.strip, lines[first:]))
    assert [re.split("  +", line.strip()) for line in found] == readme_table()


@pytest.mark.parametrize("kind", BSON_TYPES, ids=lambda kind: kind.name)
def test_conversions_follow_the_table(kind: BsonType) -> None:
    value = SAMPLES[kind.name]
    for column_type in COLUMN_TYPES:
        text = bson_json.BY_TYPE[column_type](value)
        assert (text is not None) == kind.fits(column_type) == fits(column_type, kind.name), column_type
    assert kind.fits("null") == (bson_json.null(value) is not None)
    assert kind.is_empty == (kind.name in EMPTY)
    if kind.family == "text":
        assert bson_json.string(value) == json.loads(bson_json.json_text(value))


@pytest.mark.parametrize("kind", BSON_TYPES, ids=lambda kind: kind.name)
def test_plain_filters_compare_the_types_of_the_table(kind: BsonType) -> None:
    value = SAMPLES[kind.name]
    assert is_compared(value) == kind.compared == (comparable(value) is not _NEVER)


@pytest.mark.parametrize("kind", BSON_TYPES, ids=lambda kind: kind.name)
def test_type_of_decoded_value_has_the_family_of_its_type(kind: BsonType) -> None:
    found = type_of(SAMPLES[kind.name])
    assert found is not None
    assert found.family == kind.family


def test_column_of_any_type_takes_a_missing_field() -> None:
    assert all(fits(column_type, "missing") for column_type in (*COLUMN_TYPES, "null"))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1.5, "double"),
        ("x", "string"),
        ({}, "object"),
        (DBRef("a", 1), "object"),
        ([], "array"),
        (b"", "binData"),
        (Binary(b"", 4), "binData"),
        (ObjectId(), "objectId"),
        (True, "bool"),
        (datetime.now(UTC), "date"),
        (None, "null"),
        (regex("x"), "regex"),
        (Code("x"), "javascript"),
        (Code("x", {}), "javascriptWithScope"),
        (1, "int"),
        (Timestamp(1, 1), "timestamp"),
        (Int64(1), "long"),
        (Decimal128("1"), "decimal"),
        (MinKey(), "minKey"),
        (MaxKey(), "maxKey"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_type_name_equals_that_of_mongodb(value: Any, name: str) -> None:
    assert type_name(value) == name
