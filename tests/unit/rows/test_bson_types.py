from __future__ import annotations

from datetime import UTC, datetime
from re import compile as regex
from typing import Any

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp

from zmsd.rows.bson_types import type_name


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
def test_type_name_is_mongodbs(value: Any, name: str) -> None:
    assert type_name(value) == name
