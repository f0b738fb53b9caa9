"""The events or documents of a reply, decoded slice by slice, right before they are used.

A thousand decoded events exceed a processor's cache, so that encoding them would wait for main memory; and other
threads would wait for the interpreter's lock while all of them are decoded (bench/README.rst).

Reference: https://bsonspec.org/spec.html
"""

from __future__ import annotations

from itertools import pairwise
from struct import Struct
from typing import Any, NamedTuple

import bson
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from zmsd.bson_types import Document, ExactDocument
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.events import AFTER, BEFORE

RAW = CODEC.with_options(document_class=RawBSONDocument)
"""Codec for a reply that will be sliced."""
SLICE = 200
"""Documents in a slice."""
EVALUATED = 1000
"""Documents in a slice if mongod evaluates them: larger slices need fewer requests."""
_ARRAY = 4
"""Type byte of an array."""
_int32 = Struct("<i")
_head = Struct("<iBBi")  # of a document whose one member is an array without a name
_END = b"\0\0"  # of that array, and of the document


class Split(NamedTuple):
    """The ``cursor`` of a reply."""

    rest: Document
    """The members other than the batch, and perhaps the batch."""
    length: int
    """Documents in the batch."""
    slices: list[bytes]
    """BSON for ``documents``; at least one slice."""


def split(cursor: bytes, size: int) -> Split:
    """Split the BSON of a reply's ``cursor``. Raises InvalidBSON, but not for an error inside a document of the batch.

    :param size: documents in a slice
    """
    if cursor[4] != _ARRAY:  # mongod writes the batch first; any other order becomes one slice
        rest = bson.decode(cursor, CODEC)
        return Split(rest, len(_batch(rest)), [cursor])
    batch = cursor.index(b"\0", 5) + 1  # after type and name
    first, end = batch + 4, batch + _int32.unpack_from(cursor, batch)[0] - 1
    count, cuts = _cuts(cursor, first, end, size)
    parts = [cursor[begin:cut] for begin, cut in pairwise([first, *cuts])]
    slices = [_head.pack(len(part) + 12, _ARRAY, 0, len(part) + 5) + part + _END for part in parts]
    rest = bson.decode(_int32.pack(len(cursor) - end + 3) + cursor[end + 1 :], CODEC)
    return Split(rest, count, slices)


def documents(one: bytes) -> list[Any]:
    """Return the documents of a slice; some may be DBRefs (``client.unwrap_dbrefs``). Raises InvalidBSON."""
    return _batch(bson.decode(one, CODEC))


def exact_documents(one: bytes) -> list[Any]:
    """Return the documents of a slice like ``documents``, for mongod to evaluate: see ``exact``."""
    found = documents(one)
    return found if _encodes_to(found, one) else [exact(raw) for raw in _batch(bson.decode(one, RAW))]


def exact_events(one: bytes) -> list[Document]:
    """Return the events of a slice like ``documents``, with images for mongod to evaluate: see ``exact``."""
    found: list[Document] = documents(one)
    if not _encodes_to(found, one):
        for event, raw in zip(found, _batch(bson.decode(one, RAW)), strict=True):
            event.update((name, exact(raw[name])) for name in (AFTER, BEFORE) if event.get(name) is not None)
    return found


def exact(raw: RawBSONDocument) -> Document:
    """Decode a document: to an ExactDocument if its values would not keep their BSON types when they are encoded."""
    document = bson.decode(raw.raw, CODEC)
    return document if _encodes_to(document, raw.raw) else ExactDocument(document, bytes(raw.raw))


def _encodes_to(found: Document | list[Any], raw: bytes | memoryview) -> bool:
    """Return whether a document, or the documents of a slice, are encoded to the BSON that they were decoded from."""
    try:
        return bson.encode(found if isinstance(found, dict) else {"": found}, codec_options=CODEC) == raw
    except BSONError:
        return False


def _batch(document: Document | RawBSONDocument) -> list[Any]:
    return next(value for value in document.values() if isinstance(value, list))


def _cuts(cursor: bytes, at: int, end: int, size: int) -> tuple[int, list[int]]:
    """Return the number of members of an array, and the offsets at which its slices end.

    A member is a type byte, its index as text, a zero byte, and a document that begins with its size.
    """
    count, cuts = 0, []
    while at < end:
        at += len(str(count)) + 2
        at += _int32.unpack_from(cursor, at)[0]
        count += 1
        if count % size == 0:
            cuts.append(at)
    return count, cuts if cuts and cuts[-1] == end else [*cuts, end]
