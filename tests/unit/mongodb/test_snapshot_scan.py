"""Snapshot scans over scripted replies: what is asked, and what happens after an error."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from threading import Event
from types import SimpleNamespace
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from pymongo.errors import AutoReconnect, NetworkTimeout, PyMongoError

from tests.unit.fakes import FakeSource, lines
from tests.unit.mongodb.streams import NoClient, T, failure
from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import SnapshotGone, SourceRefused, Stopped
from zmsd.mongodb import raw_batch
from zmsd.mongodb import snapshot_scan as scans
from zmsd.mongodb.members import Pin
from zmsd.mongodb.snapshot_scan import BATCH, Scan, prefetched

AT = {"level": "snapshot", "atClusterTime": position.to_timestamp(T)}
NEWER = {"level": "majority", "afterClusterTime": position.to_timestamp(T)}
Reply = tuple[list[Document], int] | PyMongoError
"""Documents and the cursor's id, or an error."""


class Replies(FakeSource):
    """A source that answers the commands of a scan in order; ``commands`` has them."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = list(replies)
        self.commands: list[Document] = []
        self.limits: list[float | None] = []
        self.kinds: list[str] = []
        """The type of the name at each look; a collection when they are used up."""
        self.client: Any = NoClient()
        self.db: Any = SimpleNamespace(list_collections=self._list)

    def read(
        self,
        command: Document,
        pin: Pin,
        session: Any = None,
        codec: Any = None,
        *,
        seconds: float | None = None,
    ) -> Any:
        self.commands.append(command)
        self.limits.append(seconds)
        if "killCursors" in command:
            return {}
        reply = self.replies.pop(0)
        if isinstance(reply, PyMongoError):
            raise reply
        documents, number = reply
        batch = "firstBatch" if "find" in command else "nextBatch"
        cursor = {batch: documents, "id": number, "ns": "db.c"}
        return RawBSONDocument(bson.encode({"cursor": cursor}), raw_batch.RAW)

    def _list(self, filter: Document) -> Iterator[Document]:
        yield {"type": self.kinds.pop(0) if self.kinds else "collection"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "REFUSED_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(scans, "backoff", lambda: iter([0.0] * 99))


def scan(source: FakeSource, **more: Any) -> Scan:
    return Scan(source, "c", frozenset(("v",)), T, **more)


def documents(found: Scan) -> list[Any]:
    """Return the ``_id`` of each document that a scan reads."""
    return [document["_id"] for parts in found for one in parts for document in found.documents(one)]


def numbered(*numbers: int) -> list[Document]:
    return [{"_id": number} for number in numbers]


def test_scan_reads_in_the_order_of_the_id_at_its_position() -> None:
    source = Replies((numbered(1, 2), 7), (numbered(3), 0))
    found = scan(source)
    assert documents(found) == [1, 2, 3]
    assert found.exact
    first, more = source.commands
    assert first == {
        "find": "c",
        "hint": {"_id": 1},
        "sort": {"_id": 1},
        "batchSize": BATCH,
        "projection": {"_id": 1, "v": 1},
        "readConcern": AT,
    }
    assert more == {"getMore": 7, "collection": "c", "batchSize": BATCH}


def test_scan_after_an_error_continues_after_the_last_id() -> None:
    """``$expr`` compares values of all types: the ``_id`` of one collection may have several."""
    source = Replies((numbered(1, 2), 7), AutoReconnect("away"), failure(11600), (numbered(3), 0))
    assert documents(scan(source)) == [1, 2, 3]
    assert source.commands[-1]["filter"] == {"$expr": {"$gt": ["$_id", {"$literal": 2}]}}
    assert source.commands[-1]["readConcern"] == AT


def test_scan_begins_after_a_given_document() -> None:
    source = Replies((numbered(3), 0))
    assert documents(scan(source, after={"_id": 2})) == [3]
    assert source.commands[0]["filter"] == {"$expr": {"$gt": ["$_id", {"$literal": 2}]}}


def test_scan_whose_snapshot_is_gone_continues_with_newer_reads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = Replies((numbered(1), 7), failure(239), (numbered(2), 0))
    found = scan(source)
    assert documents(found) == [1, 2]
    assert not found.exact, "so the changes since the position are replayed"
    assert source.commands[-1]["readConcern"] == NEWER
    assert lines(caplog)[0].startswith("scan continues with majority reads collection=c")


def test_exact_scan_whose_snapshot_is_gone_raises() -> None:
    with pytest.raises(SnapshotGone, match="no longer has c as of"):
        documents(scan(Replies(failure(239)), exact_only=True))


def test_scan_of_a_slow_server_asks_for_smaller_batches_with_a_deadline_each() -> None:
    source = Replies(NetworkTimeout("timed out"), (numbered(1), 0), (numbered(2), 0), ([], 0))
    assert documents(scan(source)) == [1, 2]
    first, slow, *_ = source.commands
    assert (first["batchSize"], slow["batchSize"]) == (BATCH, BATCH // 4)
    assert slow["singleBatch"]
    assert source.limits[1] is not None
    assert source.limits[1] > 10


def test_scan_without_an_index_of_the_id_is_refused() -> None:
    with pytest.raises(SourceRefused, match="cannot read c in the order of _id"):
        documents(scan(Replies(failure(2))))


def test_scan_without_rights_waits_for_them(caplog: pytest.LogCaptureFixture) -> None:
    assert documents(scan(Replies(failure(13), (numbered(1), 0)))) == [1]
    assert "scan of c failed" in lines(caplog)[0]


def test_scan_that_is_ended_stops_retrying() -> None:
    found = scan(Replies(*[AutoReconnect("away")] * 9))
    found.end()
    assert documents(found) == []


@pytest.mark.parametrize("kinds", [["view"], ["collection", "view"]])
def test_scan_of_a_view_is_empty(kinds: list[str]) -> None:
    """It would be read once and never updated. The name may be taken while the command runs."""
    source = Replies((numbered(1), 0))
    source.kinds = list(kinds)
    assert documents(scan(source)) == []


def test_scan_that_is_given_up_ends_its_cursor() -> None:
    source = Replies((numbered(1), 7), (numbered(2), 7))
    reading = iter(scan(source))
    next(reading)
    reading.close()
    assert source.commands[-1] == {"killCursors": "c", "cursors": [7]}


def test_document_that_is_not_bson_is_refused_with_its_collection() -> None:
    with pytest.raises(SourceRefused, match="collection c has a document with bytes that are not valid BSON"):
        scan(FakeSource()).documents(b"\x09\0\0\0\x7f")


def test_estimate_of_a_view_is_zero() -> None:
    source = Replies()
    source.kinds = ["view"]
    source.answers = [{"n": 12.0}]
    found = scan(source)
    assert found.estimate() == 0
    assert found.estimate() == 12


# AHEAD OF THE CALLER


class FakeScan(Scan):
    """A scan of batches in memory."""

    def __init__(self, batches: Sequence[list[Document]], stop: Event, stop_at: int | None = None) -> None:
        super().__init__(FakeSource(), "c", None, T)
        self.batches = batches
        self.stop = stop
        self.stop_at = stop_at
        self.over = Event()

    def __iter__(self) -> Generator[Any, None, None]:
        for number, documents in enumerate(self.batches):
            if number == self.stop_at:
                self.stop.set()
            if self.over.is_set():
                return
            yield [documents]

    def documents(self, one: Any) -> list[Document]:
        return one

    def end(self) -> None:
        self.over.set()


def test_snapshot_scan_is_read_ahead_in_order() -> None:
    stop = Event()
    batches = [[{"_id": number}] for number in range(20)]
    assert list(prefetched(FakeScan(batches, stop), stop)) == batches


@pytest.mark.parametrize("at", [0, 1, 5])
def test_stopped_snapshot_scan_raises(at: int) -> None:
    """A caller that took them for all documents would publish a part of the collection."""
    stop = Event()
    scan = FakeScan([[{"_id": number}] for number in range(20)], stop, at)
    with pytest.raises(Stopped):
        list(prefetched(scan, stop))


def test_closed_snapshot_scan_ends_its_thread() -> None:
    stop = Event()
    scan = FakeScan([[{"_id": number}] for number in range(1000)], stop)
    documents = prefetched(scan, stop)
    next(documents)
    documents.close()  # type: ignore[attr-defined]
    assert scan.over.is_set(), "also where it waits for MongoDB to come back"
