"""Documents that only tests write."""

from __future__ import annotations

import struct
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument


def broken(key: Any) -> RawBSONDocument:
    """Return a document with a binary of the old subtype 2 whose inner length is wrong: mongod accepts it, drivers do
    not."""
    return RawBSONDocument(
        _document(bson.encode({"_id": key})[4:-1] + b"\x05v\0" + struct.pack("<i", 4) + b"\x02\xff\xff\xff\x7f")
    )


DEPRECATED = {
    "undefined": b"\x06v\0",
    "symbol": b"\x0ev\0\2\0\0\0x\0",
    "dbPointer": b"\x0cv\0\2\0\0\0c\0" + b"0" * 12,
}
"""The field ``v`` with a value of each type that drivers decode but cannot encode, by the type's name."""


def of_type(key: Any, name: str) -> RawBSONDocument:
    """Return the document ``{_id: key, deep: [{v}], v}`` whose two values have a deprecated type."""
    inner = _document(DEPRECATED[name])
    deep = b"\x04deep\0" + _document(b"\x030\0" + inner)
    return RawBSONDocument(_document(bson.encode({"_id": key})[4:-1] + deep + DEPRECATED[name]))


def _document(elements: bytes) -> bytes:
    return struct.pack("<i", len(elements) + 5) + elements + b"\0"
