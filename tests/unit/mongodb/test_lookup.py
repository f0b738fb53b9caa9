"""The documents of events that came without images."""

from __future__ import annotations

from typing import Any

import pytest
from bson.codec_options import CodecOptions
from pymongo import ReadPreference
from pymongo.read_preferences import _ServerMode

from tests.unit.fakes import FakeSource
from tests.unit.mongodb.streams import T, event, failure, read
from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import SourceUnavailable
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.lookup import Lookup


class Documents(FakeSource):
    """A source with one collection, which has another state at each position."""

    def __init__(self, states: dict[int, list[Document]]) -> None:
        super().__init__()
        self.states = states

    @property
    def preferences(self) -> tuple[_ServerMode, ...]:
        return (ReadPreference.PRIMARY,)

    def find(self, command: Document, preference: _ServerMode, codec: CodecOptions[Any] = CODEC) -> list[Any]:
        at = position.of_timestamp(command["readConcern"]["atClusterTime"])
        wanted = command["filter"]["_id"]["$in"]
        return [document for document in self.states[at] if document["_id"] in wanted]


def looked_up(states: dict[int, list[Document]], *documents: Document) -> list[ChangeEvent]:
    events = read(*documents)
    Lookup(Documents(states), "a", None).complete(events, before=True)
    return events


def bare(at: int, number: int, kind: str, key: int = 1, **more: Any) -> Document:
    """Return an event without the documents that only images or a look-up give."""
    one = event(at, number, kind=kind, documentKey={"_id": key}, **more)
    if kind != "insert":
        one.pop("fullDocument", None)
    return one


def test_lookup_reads_documents_at_the_time_of_the_change() -> None:
    one, two = {"_id": 1, "v": 1}, {"_id": 1, "v": 2}
    update, delete = looked_up(
        {T: [one], T + 1: [two], T + 2: [two]}, bare(T + 1, 0, "update"), bare(T + 3, 0, "delete")
    )
    assert (update.before, update.after) == (one, two)
    assert delete.before == two


def test_document_before_within_a_transaction_is_that_of_the_previous_event() -> None:
    """Otherwise the row of the first event would remain where the second event deletes it or changes its key."""
    made = {"_id": 1, "v": 1}
    _, delete = looked_up({T: [], T + 1: []}, bare(T + 1, 0, "insert", fullDocument=made), bare(T + 1, 1, "delete"))
    assert delete.before == made


def test_failed_lookup_does_not_report_the_document_as_deleted() -> None:
    class Failing(Documents):
        def find(self, command: Document, preference: _ServerMode, codec: CodecOptions[Any] = CODEC) -> list[Any]:
            raise failure(246)

    event = ChangeEvent({"_data": f"82{5:016X}"}, "update", "a", 1)
    with pytest.raises(SourceUnavailable):
        Lookup(Failing({}), "a", None).complete([event], before=False)
    assert event.kind == "update"
