"""Documents that only tests write."""

from __future__ import annotations

import struct
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument


def broken(key: Any) -> RawBSONDocument:
    """Return a document with a binary of the old subtype 2 whose inner length is wrong: mongod accepts it, drivers do
    not."""
    body = bson.encode({"_id": key})[4:-1] + b"\x05v\0" + struct.pack("<i", 4) + b"\x02\xff\xff\xff\x7f"
    return RawBSONDocument(struct.pack("<i", len(body) + 5) + body + b"\0")
