"""Which events make a table be read again, and what is sent then. test_encoder.py has the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.frames import data
from tests.unit.fakes import START, lines, table
from zmsd.bson_types import Document
from zmsd.mongodb.events import ChangeEvent
from zmsd.replication.encoder import Encoder
from zmsd.replication.resync import Resync, SnapshotReader
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog
from zmsd.zero.system_tables import ShardTable

NOW = START + 100


class Scans:
    """A resync of three tables, and the scans that it asked for."""

    def __init__(self) -> None:
        self.scans: list[tuple[str, int]] = []
        self.progress = 0
        tables = [table("keyed", "c", "name"), table("plain", "c"), table("other", "d")]
        encoder = Encoder(Catalog(tuple(tables)), Rejects(), [ShardTable("clients", "zc", Rejects())])
        reader = SnapshotReader(lambda: NOW, self._read, lambda *_: {}, lambda: ["zero_0", "app_1"])
        self.resync = Resync(encoder, reader, self._on_progress)

    def changes(self, event: ChangeEvent, at: int = START) -> list[tuple[str, str]]:
        """Return (tag, tables) of the messages of an event."""
        frames = [frame for some in self.resync.frames(event, at) for frame in some]
        return [_shown(change) for change in data(b"".join(frames))]

    def _read(self, collection: str, at: int) -> Iterator[list[Document]]:
        self.scans.append((collection, at))
        yield [{"_id": "1", "name": "a", "shard": "zero_0", "clientGroupID": "g", "clientID": "c"}]
        yield [{"_id": "2", "name": "b", "shard": "app_1", "clientGroupID": "g", "clientID": "d"}]

    def _on_progress(self) -> None:
        self.progress += 1


def _shown(change: Document) -> tuple[str, str]:
    relations = change["relations"] if change["tag"] == "truncate" else [change["relation"]]
    return change["tag"], "+".join(each["name"] for each in relations)


def test_dropped_collection_empties_its_tables() -> None:
    scans = Scans()
    assert scans.changes(ChangeEvent({}, "drop", "c")) == [("truncate", "keyed"), ("truncate", "plain")]
    assert not scans.scans
    assert scans.changes(ChangeEvent({}, "drop", "unknown")) == []


def test_renamed_collection_is_read_at_the_time_of_the_event() -> None:
    scans = Scans()
    assert scans.changes(ChangeEvent({}, "rename", "c", target="d"), START + 7) == [
        ("truncate", "keyed"),
        ("truncate", "plain"),
        ("truncate", "other"),
        ("insert", "other"),
        ("insert", "other"),
    ]
    assert scans.scans == [("d", START + 7)]
    assert scans.progress == 2
    assert scans.resync.take_position() is None


def test_change_without_the_document_before_rereads_the_tables_that_need_it(caplog: pytest.LogCaptureFixture) -> None:
    """The key of ``keyed`` is a field, so its old row is unknown; the row of ``plain`` follows from the ``_id``."""
    scans = Scans()
    event = ChangeEvent({}, "update", "c", "1", {"_id": "1", "name": "x"})
    assert scans.changes(event, START + 7) == [
        ("truncate", "keyed"),
        ("insert", "keyed"),
        ("insert", "keyed"),
        ("update", "plain"),
    ]
    assert scans.scans == [("c", NOW)], "as it is now, because its state at the event is not known to be kept"
    assert lines(caplog) == ['table resync table=keyed reason="a change came without the document before"']
    assert scans.resync.take_position() == NOW
    assert scans.resync.take_position() is None, "it is reported once"


def test_changes_up_to_the_time_of_a_resync_are_left_out() -> None:
    scans = Scans()
    event = ChangeEvent({}, "update", "c", "1", {"_id": "1", "name": "x"})
    scans.changes(event, START + 7)
    assert scans.changes(event, NOW) == [("update", "plain")]
    assert scans.changes(ChangeEvent({}, "drop", "c"), NOW) == [("truncate", "plain")]
    assert len(scans.scans) == 1
    scans.changes(event, NOW + 1)
    assert len(scans.scans) == 2


def test_drop_of_a_system_collection_empties_the_tables_of_all_shards() -> None:
    scans = Scans()
    found = list(scans.resync.system_frames(ChangeEvent({}, "drop", "zc"), START))
    assert [(shard, _shown(data(frame)[0])) for shard, frame in found] == [
        ("zero_0", ("truncate", "zero_0.clients")),
        ("app_1", ("truncate", "app_1.clients")),
    ]


def test_rename_to_a_system_collection_sends_each_shard_its_rows() -> None:
    scans = Scans()
    found = list(scans.resync.system_frames(ChangeEvent({}, "rename", "x", target="zc"), START + 7))
    assert [(shard, _shown(data(frame)[0])[0]) for shard, frame in found] == [
        ("zero_0", "truncate"),
        ("app_1", "truncate"),
        ("zero_0", "insert"),
        ("app_1", "insert"),
    ]
    assert scans.scans == [("zc", START + 7)]


def test_change_of_a_system_document_is_of_its_shard() -> None:
    document = {"_id": "1", "shard": "app_1", "clientGroupID": "g", "clientID": "c", "lastMutationID": 2}
    event = ChangeEvent({}, "insert", "zc", "1", document, None, True)
    ((shard, frame),) = Scans().resync.system_frames(event, START)
    assert shard == "app_1"
    assert data(frame)[0]["new"]["lastMutationID"] == 2
