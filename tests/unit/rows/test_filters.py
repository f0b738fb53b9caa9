"""Examples; tests/integration/test_plain_differential.py compares filters with mongod's."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef

from zmsd.mongodb.client import CODEC
from zmsd.rows.filters import compile_filter, identity

OID = ObjectId(b"0" * 12)
NAN = float("nan")


def matches(condition: dict[str, Any], document: dict[str, Any]) -> bool:
    return compile_filter(condition)(bson.decode(bson.encode(document), CODEC))


@pytest.mark.parametrize(
    ("operand", "equal", "different"),
    [
        ("x", ["x", ["y", "x"]], ["X", None, 1, [], [["x"]], {"a": "x"}, Regex("x"), Code("x"), b"x"]),
        (1, [1, 1.0, Int64(1), Decimal128("1.0"), [0, 1.0]], [True, "1", 2, Decimal128("1.1"), [True]]),
        (0, [-0.0, Decimal128("-0E+3")], [False, None, ""]),
        (True, [True, [1, True]], [1, "true", False]),
        (None, [None, [None]], [0, "", False, [], [[None]], {}]),
        (NAN, [NAN, Decimal128("NaN"), Decimal128("sNaN"), [NAN]], [0, None, float("inf")]),
        (float("inf"), [Decimal128("Infinity")], [-float("inf"), 1e308]),
        (Int64(2**53 + 1), [Decimal128("9007199254740993")], [2.0**53, Int64(2**53)]),
        (0.1, [0.1], [Decimal128("0.1")]),
        (OID, [OID, [OID]], [str(OID), ObjectId(b"1" * 12)]),
        (b"x", [b"x"], ["x", Binary(b"x", 5)]),
        (Binary(b"x", 5), [Binary(b"x", 5)], [b"x", Binary(b"x", 128)]),
        (
            datetime(2024, 1, 1),
            [datetime(2024, 1, 1), [datetime(2024, 1, 1)]],
            [1704067200000, Timestamp(1704067200, 0)],
        ),
        (datetime(2024, 1, 1, microsecond=999), [datetime(2024, 1, 1)], [datetime(2024, 1, 1, microsecond=1000)]),
        (DatetimeMS(2**62), [DatetimeMS(2**62)], [2**62]),
        (Timestamp(1, 1), [Timestamp(1, 1)], [Timestamp(1, 2), 1]),
    ],
)
def test_equality_matches_as_in_mongodb(operand: Any, equal: list[Any], different: list[Any]) -> None:
    for value, expected in [(value, True) for value in equal] + [(value, False) for value in different]:
        document = {"k": value}
        assert matches({"k": operand}, document) is expected, value
        assert matches({"k": {"$eq": operand}}, document) is expected, value
        assert matches({"k": {"$in": ["other", operand]}}, document) is expected, value
        assert matches({"k": {"$ne": operand}}, document) is not expected, value
        assert matches({"k": {"$nin": [operand, "other"]}}, document) is not expected, value


@pytest.mark.parametrize(
    "value",
    [Regex("x"), Code("x"), Code("x", {"a": [1]}), DBRef("c", {"a": [1]}), MinKey(), MaxKey(), {"a": []}, [[]]],
)
def test_any_value_in_a_document_can_be_compared(value: Any) -> None:
    for document in ({"k": value}, {"k": [value]}, {"k": {"k": value}}, {"k": [{"k": [value]}]}):
        for path in ("k", "k.k", "k.k.k"):
            assert not matches({path: "x"}, document)
            assert matches({path: {"$nin": ["x", 1, OID]}}, document)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"a": {"b": 1}}, True),
        ({"a": [{"b": 2}, {"b": 1}]}, True),
        ({"a": [{"b": [2, 1]}]}, True),
        ({"a": [[{"b": 1}]]}, False),
        ({"a": {"b": [[1]]}}, False),
        ({"a": 1}, False),
        ({"a": [1]}, False),
        ({"a": None}, False),
        ({}, False),
        ({"a.b": 1}, False),
        ({"a": DBRef("c", 1, b=1)}, True),
        ({"a": [DBRef("c", 1, b=1)]}, True),
    ],
)
def test_path_leads_through_objects_and_one_array(document: dict[str, Any], expected: bool) -> None:
    assert matches({"a.b": 1}, document) is expected


@pytest.mark.parametrize(
    ("document", "null", "exists"),
    [
        ({}, True, False),
        ({"a": {}}, True, False),
        ({"a": {"b": None}}, True, True),
        ({"a": 5}, True, False),
        ({"a": None}, True, False),
        ({"a": []}, False, False),
        ({"a": [1]}, False, False),
        ({"a": [{}]}, True, False),
        ({"a": [{"b": 1}, {}]}, True, True),
        ({"a": [[{}]]}, False, False),
        ({"a": {"b": []}}, False, True),
    ],
)
def test_null_matches_missing_fields_as_in_mongodb(document: dict[str, Any], null: bool, exists: bool) -> None:
    assert matches({"a.b": None}, document) is null
    assert matches({"a.b": {"$exists": True}}, document) is exists
    assert matches({"a.b": {"$exists": False}}, document) is not exists


def test_all_conditions_must_hold() -> None:
    condition = {"kind": "user", "deleted": None, "age": {"$exists": True, "$ne": 0}}
    assert matches(condition, {"kind": "user", "age": 1})
    assert not matches(condition, {"kind": "user", "age": 0})
    assert not matches(condition, {"kind": "user"})
    assert not matches(condition, {"kind": "user", "age": 1, "deleted": True})
    assert not matches(condition, {"kind": ["group"], "age": 1})
    assert matches({}, {"anything": 1})


SAME_IDS: list[list[Any]] = [
    [1, 1.0, Int64(1), Decimal128("1"), Decimal128("1.00")],
    [0, -0.0, Decimal128("-0E+3")],
    [NAN, Decimal128("NaN"), Decimal128("sNaN")],
    [float("inf"), Decimal128("Infinity")],
    *([one] for one in (Int64(2**53 + 1), 2.0**53, 0.1, Decimal128("0.1"), True, False, None, "1", "", "x", b"x")),
    *([one] for one in (Binary(b"x", 5), OID, str(OID), Timestamp(1704067200, 0), 1704067200000)),
    [datetime(2024, 1, 1), DatetimeMS(1704067200000)],
    *([one] for one in (DatetimeMS(2**62), 2**62, Regex("x"), Regex("x", "i"), MinKey(), MaxKey())),
    [Code("x")],
    [Code("x", {"a": 1}), Code("x", {"a": 1.0})],
    [Code("x", {})],
    [{}],
    [{"a": 1, "b": 2}, {"a": 1.0, "b": Decimal128("2")}],
    *([one] for one in ({"b": 2, "a": 1}, {"a": 1}, {"a": True}, {"a": "1"}, {"a": [1]}, {"a": [[1]]}, {"b": 1})),
    [{"a": [NAN, {"b": 0}]}, {"a": [Decimal128("NaN"), {"b": -0.0}]}],
    [DBRef("c", 1), DBRef("c", 1.0)],
    *([one] for one in (DBRef("c", "1"), DBRef("c", 1, "d"), DBRef("c", 1, a=1))),
]


def test_ids_are_equal_as_in_mongodb() -> None:
    for wrap in (lambda value: value, lambda value: {"k": value}, lambda value: {"k": [value]}):
        classes = [
            [identity(bson.decode(bson.encode({"_id": wrap(one)}), CODEC)["_id"]) for one in same] for same in SAME_IDS
        ]
        for number, same in enumerate(classes):
            for other, found in enumerate(classes):
                for one, another in itertools.product(same, found):
                    assert (one == another) is (number == other), (one, another)


def test_ids_at_the_depth_limit_of_mongodb_are_compared() -> None:
    one, two = {"k": [1]}, {"k": [1.0]}
    for _ in range(175):
        one, two = {"k": one}, {"k": two}
    assert identity(one) == identity(two)


@pytest.mark.parametrize(
    "value",
    [b"\x06k\0", b"\x0ek\0\2\0\0\0x\0", b"\x0ck\0\2\0\0\0c\0" + b"0" * 12],
    ids=["undefined", "symbol", "pointer"],
)
def test_ids_of_deprecated_types_are_compared(value: bytes) -> None:
    one, two = (bson.decode((len(value) + 5).to_bytes(4, "little") + value + b"\0", CODEC) for _ in range(2))
    assert identity(one) == identity(two)
    assert identity(one["k"]) == identity(two["k"])


def test_field_name_may_hold_any_characters() -> None:
    for name in ("it's", 'quo"ted', "back\\slash", "{b}", "ü", "\n", "0"):
        assert matches({name: 1}, {name: 1})
        assert not matches({name: 1}, {})
