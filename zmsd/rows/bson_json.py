"""Convert BSON values to the JSON text of a column value, as the table of ``zmsd/bson_types.py`` says.

A function returns None for a value that does not fit: the column becomes null and the case is counted. zero-cache fails
on integers beyond 2^53, so a larger integer is sent as the nearest double, and from 2^63 to 1e21 as a string.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from bson import Binary, DBRef, Decimal128, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from zmsd.bson_types import MAX_EXACT_INTEGER

# The C function of json's encoder for one string, with quotes; non-ASCII text stays as it is.
quote: Callable[[str], str] = json.encoder.encode_basestring

_INT64 = 2.0**63
_JS_DATE = 8_640_000_000_000_000
"""Milliseconds before and after the epoch that JavaScript's Date can hold (ECMA-262, "Time Values")."""
_EPOCH = datetime(1970, 1, 1)
_MS = timedelta(milliseconds=1)
_NO_DIGITS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_LONG_DIGITS = re.compile(r"\d{16}")


def milliseconds(value: datetime | DatetimeMS | Timestamp) -> int:
    """Return a time as milliseconds since the epoch."""
    if isinstance(value, datetime):
        return (value - _EPOCH) // _MS
    if isinstance(value, Timestamp):
        return value.time * 1000
    return int(value)


def iso(ms: int) -> str | None:
    """Return milliseconds since the epoch as JavaScript's toISOString does, or None outside of its range."""
    if not -_JS_DATE <= ms <= _JS_DATE:
        return None
    days, rest = divmod(ms, 86_400_000)
    cycles, day = divmod(days + 719_468, 146_097)  # 400-year cycles from 0000-03-01: Python's years end at 9999
    date = datetime(2000, 3, 1) + timedelta(days=day, milliseconds=rest)
    year = date.year - 2000 + cycles * 400
    text = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+07d}"
    return f"{text}-{date:%m-%dT%H:%M:%S}.{rest % 1000:03d}Z"


def string(value: Any) -> str | None:
    """Return the JSON text for a string column, or None if the value does not fit."""
    text = _text(value)
    if text is not None:
        return quote(text)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return '"true"' if value else '"false"'
    if isinstance(value, int):
        return f'"{int(value)}"'
    if isinstance(value, float):
        return f'"{_digits(value)}"'
    return None


def number(value: Any) -> str | None:
    """Return the JSON text for a number column, or None if the value does not fit."""
    if value is None:
        return "null"
    if isinstance(value, float):
        if value.is_integer() and -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER:
            return str(int(value))  # an integer and an equal double are the same key
        text = float.__repr__(value)
        if _INT64 <= abs(value) < 1e21:
            # JavaScript writes these without an exponent, and zero-cache fails on the integer that it then reads back.
            # The column has REAL affinity, so SQLite converts the text to the same number.
            return f'"{text}"'
        return text if math.isfinite(value) else "null"
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int.__repr__(value) if -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER else number(float(value))
    if isinstance(value, (datetime, DatetimeMS, Timestamp)):
        return number(milliseconds(value))
    if isinstance(value, Decimal128):
        return number(_double(value))
    return None


def boolean(value: Any) -> str | None:
    """Return the JSON text for a boolean column, or None if the value does not fit."""
    return "true" if value is True else "false" if value is False else "null" if value is None else None


def json_text(value: Any) -> str:
    """Return the JSON text for a json column: a string that has JSON inside, as ``json: "s"`` in ``begin`` declares."""
    if value is None:
        return "null"
    try:
        text = _ENCODE(value)
    except ValueError:  # NaN, an infinity
        return quote(_ENCODE(_clean(value)))
    return quote(_ENCODE(_clean(value)) if _LONG_DIGITS.search(text) else text)


def null(value: Any) -> str | None:
    """Return the JSON text for a null column, or None if the value is not null."""
    return "null" if value is None else None


BY_TYPE: dict[str, Callable[[Any], str | None]] = {
    "string": string,
    "number": number,
    "boolean": boolean,
    "json": json_text,
    "null": null,
}


def _text(value: Any) -> str | None:
    """Return the text of a value that is written as text in string columns and inside of JSON; None for all others."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, (datetime, DatetimeMS, Timestamp)):
        return iso(milliseconds(value))
    if isinstance(value, Decimal128):
        return str(value)
    if isinstance(value, Binary) and value.subtype == 4 and len(value) == 16:
        return str(value.as_uuid())
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, Regex):
        return str(value.pattern if isinstance(value.pattern, str) else value.pattern.decode(errors="replace"))
    return None


def _inside(value: Any) -> Any:
    """Return what json's encoder writes for a type that it does not know."""
    return value.as_doc() if isinstance(value, DBRef) else _text(value)


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_inside).encode


def _clean(value: Any) -> Any:
    """Return the value with NaN and infinities as null, and integers beyond 2^53 as doubles."""
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, DBRef):
        return _clean(value.as_doc())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool) and not -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER:
        return float(value)
    return value


def _digits(value: float) -> str:
    """Return a double as JavaScript's String does, so that 5 and 5.0 are the same text."""
    text = float.__repr__(value)
    if text.endswith(".0"):
        return text[:-2] if value else "0"
    if "e" in text:
        plain = 1e-6 <= abs(value) < 1e21
        return format(Decimal(text), "f") if plain else text.replace("e-0", "e-")
    return _NO_DIGITS.get(text, text)


def _double(value: Decimal128) -> float:
    try:
        return float(value.to_decimal())
    except (ValueError, OverflowError, ArithmeticError):  # a signalling NaN
        return math.nan
