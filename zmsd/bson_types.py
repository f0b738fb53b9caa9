"""The BSON types: how MongoDB names them, how pymongo decodes them, and which column types they fit.

One table for everything that depends on a type: ``bson_json`` writes what it says, ``filters`` and the mapping parser
take what it compares, ``zmsd check`` and ``zmsd infer`` read which columns fit, and README.rst shows it.
Tests hold these to the table.

Reference: https://www.mongodb.com/docs/manual/reference/bson-types/
"""

from __future__ import annotations

from datetime import datetime
from types import NoneType
from typing import Any, NamedTuple

import bson
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

Document = dict[str, Any]
"""A decoded BSON document, or a command."""


class ExactDocument(Document):
    """A decoded document whose encoding would differ from the BSON that it was decoded from.

    pymongo decodes undefined, symbol and dbPointer as other types, of a repeated field name the last value, and invalid
    UTF-8 with replacement characters.
    """

    raw: bytes
    """The BSON of the document."""

    def __init__(self, document: Document, raw: bytes) -> None:
        super().__init__(document)
        self.raw = raw


MAX_EXACT_INTEGER = 2**53
"""The largest integer up to which all integers are exact in JavaScript (``Number.MAX_SAFE_INTEGER`` + 1)."""


class BsonType(NamedTuple):
    """A BSON type. A text for a column type says how a value is written there; None: the value does not fit."""

    name: str
    """As ``$type`` names it."""
    type_byte: int
    """Number of the type (https://bsonspec.org/spec.html)."""
    python: tuple[type, ...]
    """Types that pymongo decodes it to, with zmsd's codec."""
    family: str
    """What ``zmsd infer`` counts it as; ``text``: written as text, in a string column and inside of JSON alike."""
    compared: bool
    """Whether a plain filter, which zmsd evaluates itself, compares with values of this type."""
    string: str | None
    number: str | None
    boolean: str | None
    json: str | None

    def fits(self, column_type: str) -> bool:
        """Return whether values of this type fit a column type. A column of type ``null`` takes only null."""
        cells = {"string": self.string, "number": self.number, "boolean": self.boolean, "json": self.json}
        return cells.get(column_type, "null" if self.is_empty else None) is not None

    @property
    def is_empty(self) -> bool:
        """Whether a field of this type has no value: it becomes null in every column."""
        return self.family == "null"


_DOUBLE = "nearest double"
_INTEGER = "number; past 2^53 the nearest double"
_FLOAT = "number; null if NaN or infinite"
_DATE = ("ISO 8601, UTC", "ms since the epoch", None, "ISO 8601 in a string")
_EMPTY = ("null", "null", "null", "null")
_CODE = ("its text", None, None, "its text in a string")

BSON_TYPES = (
    BsonType("string", 2, (str,), "text", True, "itself", None, None, "string"),
    BsonType("symbol", 14, (str,), "text", True, "itself", None, None, "string"),
    BsonType("int", 16, (int,), "int", True, "exact digits", _INTEGER, None, _INTEGER),
    BsonType("long", 18, (Int64,), "int", True, "exact digits", _INTEGER, None, _INTEGER),
    BsonType("double", 1, (float,), "double", True, "as in JavaScript", _FLOAT, None, _FLOAT),
    BsonType("decimal", 19, (Decimal128,), "decimal", True, "exact digits", _DOUBLE, None, "exact digits in a string"),
    BsonType("bool", 8, (bool,), "bool", True, "true, false", None, "itself", "itself"),
    BsonType("date", 9, (datetime, DatetimeMS), "date", True, *_DATE),
    BsonType("timestamp", 17, (Timestamp,), "date", True, *_DATE),
    BsonType("objectId", 7, (ObjectId,), "text", True, "24 hex digits", None, None, "24 hex digits in a string"),
    BsonType("binData", 5, (bytes, Binary), "text", True, "base64; UUID: text", None, None, "the same in a string"),
    BsonType("regex", 11, (Regex,), "text", False, *_CODE),
    BsonType("javascript", 13, (Code,), "text", False, *_CODE),
    BsonType("javascriptWithScope", 15, (Code,), "text", False, *_CODE),
    BsonType("object", 3, (dict,), "object", False, None, None, None, "JSON"),
    BsonType("array", 4, (list,), "other", False, None, None, None, "JSON"),
    BsonType("dbPointer", 12, (DBRef,), "other", False, None, None, None, "JSON"),
    BsonType("minKey", 255, (MinKey,), "other", False, None, None, None, "null"),
    BsonType("maxKey", 127, (MaxKey,), "other", False, None, None, None, "null"),
    BsonType("null", 10, (NoneType,), "null", True, *_EMPTY),
    BsonType("undefined", 6, (NoneType,), "null", True, *_EMPTY),
)
"""All types, in the order of README.rst."""

BY_NAME = {kind.name: kind for kind in BSON_TYPES}

EMPTY = frozenset(("missing", *(kind.name for kind in BSON_TYPES if kind.is_empty)))
"""What ``$type`` returns for a field without a value (``missing``: the document does not have the field)."""

_BY_TYPE_BYTE = {kind.type_byte: kind for kind in BSON_TYPES}
# bool is an int, Int64 too, Code a str, Binary bytes: the subclass decides.
_BY_PYTHON_TYPE = {type_: kind for kind in reversed(BSON_TYPES) for type_ in kind.python}
_TYPE_BYTE = 4
"""Index of the first field's type in a document: its length comes before."""


def type_name(value: Any) -> str:
    """Return the name of the BSON type of a decoded value, such as ``object`` for a dict. Not for hot paths."""
    return _BY_TYPE_BYTE[bson.encode({"": value})[_TYPE_BYTE]].name


def type_of(value: Any) -> BsonType | None:
    """Return the BSON type of a decoded value by its Python type, or None if it has no BSON type. Not for hot paths."""
    return next((_BY_PYTHON_TYPE[each] for each in type(value).__mro__ if each in _BY_PYTHON_TYPE), None)


def is_compared(value: Any) -> bool:
    """Return whether a plain filter may compare with a value."""
    found = type_of(value)
    return found is not None and found.compared


def fits(column_type: str, name: str) -> bool:
    """Return whether values fit a column.

    :param name: a type as ``$type`` names it, or ``missing``
    """
    return name in EMPTY or BY_NAME[name].fits(column_type)
