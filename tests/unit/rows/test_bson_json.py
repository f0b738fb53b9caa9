from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any
from uuid import UUID

import bson
import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from hypothesis import given, settings
from hypothesis import strategies as st

from zmsd.mongodb.client import CODEC
from zmsd.rows import bson_json

OID = ObjectId("0123456789abcdef01234567")
UUID_TEXT = "12345678-1234-5678-1234-567812345678"
LEAP = datetime(2024, 2, 29, 23, 59, 59, 999000)
LEAP_TEXT, LEAP_MS = "2024-02-29T23:59:59.999Z", 1709251199999
NO = object()
"""Does not fit: null, and counted."""


def same(value: Any) -> tuple[Any, Any, Any, Any]:
    return (value, value, value, value)


# value -> what string, number, boolean and json columns hold, as zero-cache reads it
TABLE: list[tuple[Any, Any, Any, Any, Any]] = [
    (None, *same(None)),
    ("", "", NO, NO, ""),
    ('grüße 🎈 " \\ \n \x00 </script>', 'grüße 🎈 " \\ \n \x00 </script>', NO, NO, 'grüße 🎈 " \\ \n \x00 </script>'),
    ("null", "null", NO, NO, "null"),
    (True, "true", NO, True, True),
    (False, "false", NO, False, False),
    (0, "0", 0, NO, 0),
    (-7, "-7", -7, NO, -7),
    (Int64(2**53), "9007199254740992", 2**53, NO, 2**53),
    (Int64(2**53 + 1), "9007199254740993", 2.0**53, NO, 2.0**53),
    (Int64(-(2**53) - 1), "-9007199254740993", -(2.0**53), NO, -(2.0**53)),
    (0.1, "0.1", 0.1, NO, 0.1),
    (5.0, "5", 5, NO, 5.0),
    (-0.0, "0", 0, NO, 0),
    (1.7e12, "1700000000000", 1_700_000_000_000, NO, 1.7e12),
    (2.0**53 + 2, "9007199254740994", 2.0**53 + 2, NO, 2.0**53 + 2),
    (1.25e-6, "0.00000125", 1.25e-6, NO, 1.25e-6),
    (1.25e-7, "1.25e-7", 1.25e-7, NO, 1.25e-7),
    (5e-324, "5e-324", 5e-324, NO, 5e-324),
    (1e21, "1e+21", 1e21, NO, 1e21),
    (-1.797e308, "-1.797e+308", -1.797e308, NO, -1.797e308),
    (Decimal128("0.1"), "0.1", 0.1, NO, "0.1"),
    (Decimal128("1E+3"), "1E+3", 1000.0, NO, "1E+3"),
    (Decimal128("123456789012345678901234567890.125"), "123456789012345678901234567890.125", 1.2345678901234568e29, NO)
    + ("123456789012345678901234567890.125",),
    (Decimal128("1E+6144"), "1.000000000000000000000000000000000E+6144", None, NO)
    + ("1.000000000000000000000000000000000E+6144",),
    (LEAP, LEAP_TEXT, LEAP_MS, NO, LEAP_TEXT),
    (datetime(1969, 12, 31, 23, 59, 59, 1000), "1969-12-31T23:59:59.001Z", -999, NO, "1969-12-31T23:59:59.001Z"),
    (datetime(1, 1, 1), "0001-01-01T00:00:00.000Z", -62135596800000, NO, "0001-01-01T00:00:00.000Z"),
    (DatetimeMS(-62135596800001), "0000-12-31T23:59:59.999Z", -62135596800001, NO, "0000-12-31T23:59:59.999Z"),
    (DatetimeMS(-62167219200001), "-000001-12-31T23:59:59.999Z", -62167219200001, NO, "-000001-12-31T23:59:59.999Z"),
    (DatetimeMS(253402300800000), "+010000-01-01T00:00:00.000Z", 253402300800000, NO, "+010000-01-01T00:00:00.000Z"),
    (DatetimeMS(8_640_000_000_000_000), "+275760-09-13T00:00:00.000Z", 8_640_000_000_000_000, NO)
    + ("+275760-09-13T00:00:00.000Z",),
    (DatetimeMS(-8_640_000_000_000_000), "-271821-04-20T00:00:00.000Z", -8_640_000_000_000_000, NO)
    + ("-271821-04-20T00:00:00.000Z",),
    (DatetimeMS(8_640_000_000_000_001), NO, 8_640_000_000_000_001, NO, None),
    (DatetimeMS(2**62), NO, float(2**62), NO, None),
    (Timestamp(1709251199, 5), "2024-02-29T23:59:59.000Z", 1709251199000, NO, "2024-02-29T23:59:59.000Z"),
    (OID, str(OID), NO, NO, str(OID)),
    (b"\x00\xff\x10", "AP8Q", NO, NO, "AP8Q"),
    (Binary(b"\x00\xff\x10", 128), "AP8Q", NO, NO, "AP8Q"),
    (Binary.from_uuid(UUID(UUID_TEXT)), UUID_TEXT, NO, NO, UUID_TEXT),
    (Binary(b"abc", 4), "YWJj", NO, NO, "YWJj"),
    (Regex("^a.*é", "i"), "^a.*é", NO, NO, "^a.*é"),
    (Code("f()"), "f()", NO, NO, "f()"),
    (Code("f()", {"x": 1}), "f()", NO, NO, "f()"),
    (MinKey(), NO, NO, NO, None),
    (MaxKey(), NO, NO, NO, None),
    ({}, NO, NO, NO, {}),
    ([], NO, NO, NO, []),
    ([1, [LEAP, None], {"ü": OID}], NO, NO, NO, [1, [LEAP_TEXT, None], {"ü": str(OID)}]),
    ({"d": Decimal128("0.10"), "n": math.nan, "i": [-math.inf]}, NO, NO, NO, {"d": "0.10", "n": None, "i": [None]}),
    ({"l": Int64(2**60 + 1), "t": "12345678901234567890"}, NO, NO, NO, {"l": 2.0**60, "t": "12345678901234567890"}),
    (DBRef("c", OID, "db", x=math.nan), NO, NO, NO, {"$ref": "c", "$id": str(OID), "$db": "db", "x": None}),
]


@pytest.mark.parametrize(
    ("value", "string", "number", "boolean", "as_json"), TABLE, ids=[repr(row[0])[:40] for row in TABLE]
)
def test_each_value_in_each_column_type(value: Any, string: Any, number: Any, boolean: Any, as_json: Any) -> None:
    value = stored(value)
    for kind, expected in (("string", string), ("number", number), ("boolean", boolean)):
        text = bson_json.BY_TYPE[kind](value)
        assert (NO if text is None else json.loads(text)) == expected, kind
        assert text is None or type(json.loads(text)) is type(expected) or kind == "number"
    assert (bson_json.null(value) is None) == (value is not None)
    text = json.loads(bson_json.json_text(value))
    assert (text is None) == (value is None), "a string of JSON, but SQL's NULL for null"
    assert value is None or json.loads(text) == as_json


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, *map(Decimal128, ("NaN", "sNaN", "-Infinity"))])
def test_value_that_is_not_a_number_is_null(value: Any) -> None:
    assert bson_json.number(stored(value)) == "null"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_null_in_json(value: float) -> None:
    assert json.loads(bson_json.json_text(stored({"a": [value, 1]}))) == '{"a":[null,1]}'


@pytest.mark.parametrize("value", [2.0**63, -(2.0**63), 1e20, -9.99e20, Int64(2**63 - 1), Decimal128("1E+19")])
def test_numbers_too_long_for_integers_of_zero_cache_are_text(value: Any) -> None:
    text = json.loads(str(bson_json.number(stored(value))))
    assert isinstance(text, str)
    assert float(text) == float(value.to_decimal() if isinstance(value, Decimal128) else value)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.integers(-(2**63), 2**63 - 1).map(Int64)
    | st.floats(width=64)
    | st.text()
    | st.binary(max_size=20)
    | st.builds(Binary, st.binary(max_size=20), st.sampled_from([0, 3, 4, 5, 128]))
    | st.integers(-(2**63), 2**63 - 1).map(DatetimeMS)
    | st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
    | st.binary(min_size=12, max_size=12).map(ObjectId)
    | st.decimals(places=3, min_value=-(10**25), max_value=10**25).map(Decimal128)
    | st.sampled_from([Decimal128("NaN"), Decimal128("sNaN"), Decimal128("-Infinity"), Decimal128("9E+6144")])
    | st.sampled_from([MinKey(), MaxKey(), Regex("a\\b\n"), Code("x"), Code("x", {"a": 1})])
)
FIELDS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=5)
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(FIELDS, inner, max_size=4)
        | st.builds(lambda key, extra: DBRef("c", key, more=extra), inner, inner)
    ),
    max_leaves=10,
)


@settings(max_examples=250)
@given(ANY)
def test_any_value_is_valid_for_zero_cache(value: Any) -> None:
    value = stored(value)
    for kind, convert in bson_json.BY_TYPE.items():
        text = convert(value)
        if text is None:
            assert value is not None
            assert kind != "json"
            continue
        column = strictly(text)
        fits = {"string": str, "number": (int, float, str), "boolean": bool, "json": str, "null": ()}
        assert column is None or isinstance(column, fits[kind])
        if kind == "number" and isinstance(column, str):
            float(column)
        elif kind == "number" and column is not None:
            assert abs(column) < 2**63 or abs(column) >= 1e21
        if kind == "json" and column is not None:
            strictly(column)


def test_invalid_utf8_is_replaced() -> None:
    broken = bson.encode({"": {"key": "text"}}).replace(b"text", b"\xff\xed\xa0\x80").replace(b"key", b"k\xffy")
    value = bson.decode(broken, CODEC)[""]
    inner = json.loads(json.loads(bson_json.json_text(value)))
    assert list(inner) == ["k\ufffdy"]
    assert set(inner["k\ufffdy"]) == {"\ufffd"}


def test_documents_at_the_depth_limit_of_mongodb_are_encoded() -> None:
    deep: Any = math.nan
    for _ in range(180):
        deep = {"a": [deep]} if _ % 2 else {"a": deep}
    assert json.loads(bson_json.json_text(stored(deep))).count("null") == 1


def stored(value: Any) -> Any:
    """Return the value as MongoDB returns it."""
    return bson.decode(bson.encode({"": value}), CODEC)[""]


def strictly(text: str) -> Any:
    """Parse a text as standard JSON. Raises ValueError for what only Python accepts."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def integer(digits: str) -> int:
        assert abs(int(digits)) <= 2**53, f"{digits} is not exact in JavaScript"
        return int(digits)

    assert text == text.encode().decode(), "it can be sent"
    return json.loads(text, parse_constant=refuse, parse_int=integer)
