"""The frame of an initial sync: its messages without rows, and its watermark. Integration tests read the rows."""

from __future__ import annotations

import hashlib
from threading import Event
from typing import Any

import pytest

from tests.support.frames import messages
from tests.unit.fakes import START, FakeSource, active, lines
from zmsd.errors import SourceUnavailable, Stopped
from zmsd.position import watermark as mark
from zmsd.replication.initial_sync import InitialSync
from zmsd.schema.catalog import Catalog
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import CopyRecord


def sync(newest: str = "", permissions: Any = None, at: int = START) -> InitialSync:
    published = Publication(Catalog(()), permissions)
    return InitialSync(FakeSource(time=at), active(published), "zero", 3, Event(), newest)


def sent(one: InitialSync) -> list[Any]:
    return messages(b"".join(one.frames()))


def test_initial_sync_creates_the_tables_that_zero_cache_requires() -> None:
    begin, *changes, commit = sent(sync())
    assert begin == ["begin", {"tag": "begin", "json": "s"}, {"commitWatermark": mark(START)}]
    created = [change[1]["spec"]["name"] for change in changes if change[1]["tag"] == "create-table"]
    assert created == ["zero_3.clients", "zero_3.mutations", "zero.permissions", "zero.schemaVersions"]
    assert [change[1]["tag"] for change in changes].count("create-index") == 4
    assert commit == ["commit", {"tag": "commit", "commitTimeMs": (START >> 32) * 1000}, {"watermark": mark(START)}]


@pytest.mark.parametrize(
    ("permissions", "text", "digest"),
    [
        (None, None, None),
        ({"tables": "é"}, '{"tables":"é"}', hashlib.sha256('{"tables":"é"}'.encode()).hexdigest()[:32]),
    ],
)
def test_initial_sync_has_the_permissions_row(permissions: Any, text: str | None, digest: str | None) -> None:
    rows = {
        change[1]["relation"]["name"]: change[1]["new"]
        for change in sent(sync(permissions=permissions))[1:-1]
        if change[1]["tag"] == "insert"
    }
    assert rows["zero.permissions"] == {"permissions": text, "hash": digest, "lock": True}
    assert rows["zero.schemaVersions"]["minSupportedVersion"] == 1


def test_initial_sync_is_recorded_with_its_publication() -> None:
    one = sync()
    assert one.record == CopyRecord(mark(START), mark(START), one.active.fingerprint)


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        (mark(START - 1), mark(START)),
        (mark(START), mark(START, 1)),
        (mark(START, 4), mark(START, 5)),
    ],
)
def test_initial_sync_has_a_replica_version_of_its_own(newest: str, expected: str) -> None:
    """zero-cache takes two replicas with the same replicaVersion for the same replica."""
    one = sync(newest)
    assert one.watermark == expected
    assert one.record.stream_from == expected


def test_initial_sync_behind_an_earlier_one_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    one = sync(mark(START + 5))
    assert one.watermark == mark(START)
    (line,) = lines(caplog)
    assert line.startswith("database time is behind an earlier initial sync")


def test_initial_sync_that_is_stopped_raises() -> None:
    """The wait for MongoDB ends with the session."""
    source, stop = FakeSource(), Event()
    source.trouble = SourceUnavailable("away")
    stop.set()
    with pytest.raises(Stopped):
        InitialSync(source, active(), "zero", 0, stop, "")
