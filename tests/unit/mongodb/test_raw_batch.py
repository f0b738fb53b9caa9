from __future__ import annotations

from typing import Any

import bson
import pytest
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from tests.support.documents import DEPRECATED, of_type
from zmsd.bson_types import ExactDocument
from zmsd.mongodb import raw_batch
from zmsd.mongodb.raw_batch import SLICE

Document = dict[str, Any]


def event(number: int) -> Document:
    return {
        "_id": {"_data": f"{number:x}"},
        "fullDocument": {"_id": number, "text": "x" * (number % 7), "of": [number]},
    }


def cursor(events: list[Document], *, batch_first: bool = True) -> Document:
    batch, rest = {"nextBatch": events}, {"postBatchResumeToken": {"_data": "82"}, "id": 1 << 40, "ns": "db.$cmd"}
    return {**batch, **rest} if batch_first else {**rest, **batch}


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE, 999, 1000, 1001, 10_001])
def test_slices_have_all_events_in_order(length: int) -> None:
    whole = cursor([event(number) for number in range(length)])
    found = raw_batch.split(bson.encode(whole), SLICE)
    parts = [raw_batch.documents(one) for one in found.slices]
    assert [one for part in parts for one in part] == whole.pop("nextBatch")
    assert found.rest == whole
    assert found.length == length
    assert parts[:-1] == [part for part in parts[:-1] if len(part) == SLICE]
    assert len(parts) == max(1, -(-length // SLICE))


def test_slice_size_is_chosen_by_the_caller() -> None:
    found = raw_batch.split(bson.encode(cursor([event(number) for number in range(1000)])), raw_batch.EVALUATED)
    assert [len(raw_batch.documents(one)) for one in found.slices] == [1000]


def test_batch_at_an_unexpected_offset_is_one_slice() -> None:
    whole = cursor([event(number) for number in range(300)], batch_first=False)
    found = raw_batch.split(bson.encode(whole), SLICE)
    assert found.length == 300
    assert found.rest["postBatchResumeToken"] == {"_data": "82"}
    assert [raw_batch.documents(one) for one in found.slices] == [whole["nextBatch"]]


def test_only_the_slice_with_invalid_bson_is_unreadable() -> None:
    events = [event(number) for number in range(3 * SLICE)]
    events[SLICE]["bad"] = "x"
    raw = bson.encode(cursor(events)).replace(b"\x02bad\0\x02", b"\x02bad\0\x7f")
    first, second, third = raw_batch.split(raw, SLICE).slices
    assert raw_batch.documents(first) == events[:SLICE]
    assert raw_batch.documents(third) == events[2 * SLICE :]
    with pytest.raises(InvalidBSON):
        raw_batch.documents(second)


@pytest.mark.parametrize("name", DEPRECATED)
def test_document_of_deprecated_types_keeps_its_bson(name: str) -> None:
    rare = of_type(SLICE, name)
    whole = bson.encode(cursor([event(number)["fullDocument"] for number in range(SLICE)] + [rare]))
    first, second = raw_batch.split(whole, SLICE).slices
    assert {type(one) for one in raw_batch.exact_documents(first)} == {dict}
    (found,) = raw_batch.exact_documents(second)
    assert found == raw_batch.documents(second)[0]
    assert isinstance(found, ExactDocument)
    assert found.raw == rare.raw


@pytest.mark.parametrize("length", [1, SLICE + 1])
def test_images_of_deprecated_types_keep_their_bson(length: int) -> None:
    events = [event(number) for number in range(length)]
    rare = of_type(7, "symbol")
    events[-1] |= {"fullDocument": rare, "fullDocumentBeforeChange": None}
    *_, last = raw_batch.split(bson.encode(cursor(events)), SLICE).slices
    found = raw_batch.exact_events(last)[-1]
    assert found == raw_batch.documents(last)[-1]
    assert found["fullDocument"].raw == rare.raw


def test_document_with_a_repeated_field_or_invalid_text_keeps_its_bson() -> None:
    repeated = bson.encode({"a": 1, "b": 2}).replace(b"b\0", b"a\0")
    invalid = bson.encode({"a": "xyz"}).replace(b"y", b"\xff")
    for raw in (repeated, invalid):
        found = raw_batch.exact(RawBSONDocument(raw))
        assert isinstance(found, ExactDocument)
        assert found.raw == raw
