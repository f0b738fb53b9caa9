"""Extended JSON in mappings as BSON values."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp

from zmsd.config.document import KeyPath
from zmsd.schema.literals import literals

UUID = uuid.UUID("12345678123456781234567812345678")
OID = "65f000000000000000000001"


def read(value: Any) -> tuple[Any, list[tuple[KeyPath, str]]]:
    """Return the value and the issues."""
    issues: list[tuple[KeyPath, str]] = []
    return literals(value, lambda path, reason: issues.append((path, reason))), issues


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ({"$oid": OID}, ObjectId(OID)),
        ({"$date": "2026-11-28T12:00:00Z"}, datetime(2026, 11, 28, 12)),
        ({"$date": {"$numberLong": "0"}}, datetime(1970, 1, 1)),
        ({"$numberInt": "5"}, 5),
        ({"$numberLong": "5"}, Int64(5)),
        ({"$numberDouble": "1.5"}, 1.5),
        ({"$numberDecimal": "1.50"}, Decimal128("1.50")),
        ({"$binary": {"base64": "AQI=", "subType": "00"}}, b"\1\2"),
        ({"$binary": "AQI=", "$type": "80"}, Binary(b"\1\2", 128)),
        (
            {"$uuid": str(UUID)},
            Binary(UUID.bytes, 4),
        ),
        ({"$timestamp": {"t": 5, "i": 6}}, Timestamp(5, 6)),
        ({"$regularExpression": {"pattern": "^a", "options": "i"}}, Regex("^a", "i")),
        ({"$symbol": "s"}, "s"),
        ({"$minKey": 1}, MinKey()),
        ({"$maxKey": 1}, MaxKey()),
        ({"$code": "x"}, Code("x")),
        ({"a": [{"$oid": OID}, None]}, {"a": [ObjectId(OID), None]}),
        ({"a": {"$regex": "^a", "$options": "i"}}, {"a": {"$regex": "^a", "$options": "i"}}),
        ({"a": {"$type": "string"}}, {"a": {"$type": "string"}}),
        ({"$in": [1, True, 1.5, "x"]}, {"$in": [1, True, 1.5, "x"]}),
    ],
)
def test_literal_is_its_value_and_other_objects_stay(written: Any, value: Any) -> None:
    found, issues = read(written)
    assert not issues
    assert found == value
    assert type(found) is type(value) or isinstance(found, Binary | uuid.UUID)


@pytest.mark.parametrize(
    ("written", "path", "reason"),
    [
        ({"a": {"$oid": "x"}}, ("a",), "not a $oid of extended JSON"),
        ({"a": {"$oid": OID, "b": 1}}, ("a",), "its members are $oid, b"),
        ({"a": [{"$date": "soon"}]}, ("a", 0), "not a $date of extended JSON"),
        ({"$numberLong": "x"}, (), "not a $numberLong of extended JSON"),
        ({"$undefined": True}, (), "MongoDB compares nothing with undefined"),
        ({"$dbPointer": {}}, (), "deprecated type DBPointer"),
        ({"$regularExpression": {"pattern": "a"}}, (), '"pattern" and "options", both text'),
        ({"$regularExpression": {"pattern": "a", "options": "g"}}, (), "options are of i, m, s, u, x, got 'g'"),
        ({"$symbol": 5}, (), "it must be text"),
        ({"$code": 5}, (), "it must be text"),
        (1 << 63, (), "beyond the 64 bits"),
        ({"$numberLong": str(1 << 64)}, (), "beyond the 64 bits"),
        ({"a\0b": 1}, ("a\0b",), "it has a NUL in it"),
    ],
)
def test_literal_that_is_not_valid_is_an_issue(written: Any, path: KeyPath, reason: str) -> None:
    _, issues = read(written)
    (found,) = issues
    assert found[0] == path
    assert reason in found[1]


def test_smallest_integer_is_accepted() -> None:
    assert read(-(1 << 63)) == (-(1 << 63), [])


def test_depth_beyond_that_of_a_document_is_an_issue() -> None:
    value: Any = 1
    for _ in range(150):
        value = [value]
    _, issues = read(value)
    assert [reason for _, reason in issues] == ["is nested too deeply for MongoDB"]
