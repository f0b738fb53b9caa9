"""Readers of events with their documents: the streams that they ask for, and how events are completed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from bson import DBRef
from bson.codec_options import CodecOptions
from pymongo import ReadPreference
from pymongo.read_preferences import _ServerMode

from tests.unit.fakes import table
from tests.unit.mongodb.streams import Answer, ScriptedSource, T, batch, event, failure
from zmsd.bson_types import Document
from zmsd.errors import OptionRefused
from zmsd.mongodb.change_cursor import Batch
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.content_reader import CollectionReader, DatabaseReader, Watched
from zmsd.mongodb.events import AFTER, BEFORE
from zmsd.mongodb.raw_batch import EVALUATED, SLICE
from zmsd.mongodb.reader import Health
from zmsd.rows.computed import Evaluator
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Table
from zmsd.schema.mapping import Mapping


class Documents(ScriptedSource):
    """A scripted source with one document that every look-up finds."""

    def __init__(self, *, images: bool = False, **answers: list[Answer]) -> None:
        super().__init__(**answers)
        self.deployment = replace(self.deployment, stores_images=images)
        self.document: Document = {"_id": 0, "v": 1}
        self.looked_up = 0

    @property
    def preferences(self) -> tuple[_ServerMode, ...]:
        return (ReadPreference.PRIMARY,)

    def find(self, command: Document, preference: _ServerMode, codec: CodecOptions[Any] = CODEC) -> list[Any]:
        self.looked_up += 1
        return [self.document]


def update(at: int, coll: str = "a", **more: Any) -> Document:
    found = event(at, coll=coll, kind="update", **more)
    if AFTER not in more:
        del found[AFTER]
    return found


def read(reader: CollectionReader | DatabaseReader) -> Batch:
    found = reader.read_batch()
    assert found is not None
    return found


def collection(source: ScriptedSource, watched: Watched = Watched(None)) -> CollectionReader:  # noqa: B008
    return CollectionReader(source, "a", watched, T, Event(), Health())


def database(source: ScriptedSource, **watched: Watched) -> DatabaseReader:
    return DatabaseReader(source, watched, T, Event(), Health())


def test_images_are_asked_for_where_the_server_stores_them() -> None:
    for images, options in ((True, {AFTER: "whenAvailable", BEFORE: "whenAvailable"}), (False, {})):
        source = Documents(images=images)
        read(collection(source))
        (opened,) = source.opened
        assert {key: value for key, value in opened[1].items() if key in (AFTER, BEFORE)} == options


def test_event_without_images_is_completed_by_a_look_up() -> None:
    source = Documents(a=[batch(update(T + 1))])
    (found,) = read(collection(source)).events
    assert found.after == source.document
    assert not found.before_known
    source = Documents(a=[batch(update(T + 1))])
    (found,) = read(collection(source, Watched(None, needs_before=True))).events
    assert (found.before, found.before_known) == (source.document, True)
    assert source.looked_up == 2


def test_document_that_looks_like_a_dbref_is_a_document() -> None:
    """pymongo decodes a document with $ref and $id at its top to a DBRef."""
    source = Documents(a=[batch(update(T + 1, fullDocument=DBRef("users", 5), fullDocumentBeforeChange=DBRef("x", 6)))])
    (found,) = read(collection(source)).events
    assert found.after == {"$ref": "users", "$id": 5}
    assert found.before == {"$ref": "x", "$id": 6}


def test_drop_and_rename_forget_the_images_of_both_names() -> None:
    """The collection that has the name next has a setting of its own."""
    rename = {**event(T + 1, kind="rename"), "to": {"coll": "b"}}
    source = Documents(images=True, database=[batch(rename)])
    source.images = frozenset("abc")
    read(database(source, a=Watched(None), b=Watched(None)))
    assert source.images == {"c"}


def test_images_are_switched_on_for_a_collection_that_lacks_them() -> None:
    source = Documents(images=True, a=[batch(event(T + 1))])
    source.existing = {"a": {}}
    read(collection(source))
    assert source.images == {"a"}


def test_view_that_took_the_name_is_read_from_the_stream_of_the_database() -> None:
    source = Documents(a=[failure(166)], database=[batch(event(T + 1))])
    assert len(read(collection(source)).events) == 1
    assert [stream for stream, _ in source.opened] == ["a", None]


def test_unreadable_event_is_read_without_its_documents(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = Documents(a=[failure(10334), batch(update(T + 1))])
    (found,) = read(collection(source)).events
    assert found.after == source.document
    assert "looking up documents of unreadable events" in caplog.text


@pytest.mark.parametrize("images", [True, False])
def test_refused_option_ends_the_feed_if_the_deployment_has_changed(images: bool) -> None:
    source = Documents(images=True, a=[failure(2)])
    reader = collection(source)
    source.deployment = replace(source.deployment, stores_images=images)
    with pytest.raises(OptionRefused) as refused:
        reader.read_batch()
    assert ("takes other options now" in str(refused.value)) is not images


def test_stream_of_the_database_has_the_union_of_fields_and_the_filters() -> None:
    source = Documents()
    read(database(source, a=Watched(frozenset("x"), filters=[{"t": 1}]), b=Watched(frozenset("y"))))
    stages = source.pipelines[0]
    assert len([stage for stage in stages if "$match" in stage]) == 2
    project = stages[-1]["$project"]
    assert {"fullDocument.x", "fullDocument.y"} <= set(project)
    source = Documents()
    read(database(source, a=Watched(frozenset("x")), b=Watched(None)))
    assert "fullDocument.x" not in source.pipelines[0][-1]["$project"], "one table needs all fields"


@pytest.mark.parametrize(("more", "imaged"), [({BEFORE: {"_id": 0}}, True), ({}, False)])
def test_newest_event_is_imaged_only_by_the_server(more: Document, imaged: bool) -> None:
    source = Documents(database=[batch(update(T + 1, **more))])
    reader = database(source, a=Watched(None, needs_before=True))
    assert read(reader).events[0].before_known
    assert reader.newest_imaged is imaged


def evaluated(*, rows: Sequence[Document]) -> Watched:
    """Return a collection with a computed table, of which mongod makes one row of each document."""
    computed = Table(table("t", "a").spec, Mapping("a", None, pipeline=[{"$set": {"id": "$_id"}}]))
    return Watched(None, Evaluator(lambda pipeline, seconds=0.0: list(rows), [computed], Rejects()), True)


def test_computed_rows_are_set_before_and_after_each_event() -> None:
    watched = evaluated(rows=[])
    delete = event(T + 1, 0, kind="delete", fullDocumentBeforeChange={"_id": 0})
    del delete[AFTER]
    source = Documents(a=[batch(delete, event(T + 2, 1))])
    gone, made = read(collection(source, watched)).events
    assert (gone.computed_before, gone.computed_after) == ({"t": []}, {})
    assert (made.computed_before, made.computed_after) == ({}, {"t": []})


def test_slices_of_evaluated_collections_are_larger() -> None:
    assert database(Documents(), a=Watched(None))._cursor._slice_size == SLICE
    assert database(Documents(), a=evaluated(rows=[]))._cursor._slice_size == EVALUATED
