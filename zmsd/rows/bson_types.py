"""The names of the BSON types, as MongoDB's manual and ``$type`` have them."""

from __future__ import annotations

from typing import Any

import bson

_NAMES = {
    1: "double",
    2: "string",
    3: "object",
    4: "array",
    5: "binData",
    6: "undefined",
    7: "objectId",
    8: "bool",
    9: "date",
    10: "null",
    11: "regex",
    12: "dbPointer",
    13: "javascript",
    14: "symbol",
    15: "javascriptWithScope",
    16: "int",
    17: "timestamp",
    18: "long",
    19: "decimal",
    127: "maxKey",
    255: "minKey",
}
"""Type byte -> name (https://www.mongodb.com/docs/manual/reference/bson-types/)."""
_TYPE_BYTE = 4
"""Index of the first field's type in a document: its length comes before."""


def type_name(value: Any) -> str:
    """Return the name of the BSON type of a decoded value, such as ``object`` for a dict. Not for hot paths."""
    return _NAMES[bson.encode({"": value})[_TYPE_BYTE]]
