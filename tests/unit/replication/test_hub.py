"""Where a session finds the changes after its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from tests.support.wait import wait_until
from zmsd.errors import Evicted, ResumeLost, Stopped
from zmsd.mongodb.sequencer import FeedBatch, TransactionPart
from zmsd.position import watermark
from zmsd.replication import hub as hubs
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.change_log import ChangeLog, Entry
from zmsd.replication.hub import Changes, Hub, Readiness

ALL = 1 << 30


class FakeBuilder:
    def entries(self, parts: Sequence[TransactionPart]) -> Iterator[list[Entry]]:
        if parts:
            yield [entry(one.position, f"private {one.position}", last=one.last) for one in parts]


EDITION = cast(ActivePublication, SimpleNamespace(fingerprint="f", watched={}, entry_builder=FakeBuilder))


def entry(at: int, text: str, *, last: bool = True) -> Entry:
    return Entry(watermark(at), 0, 1, text.encode(), last)


def part(at: int, *, first: bool = True, last: bool = True) -> TransactionPart:
    return TransactionPart(at, [], first, last)


class FakeFeed:
    """A private feed of this history: a transaction at every tenth position, each in a batch of its own."""

    opened: list[FakeFeed]
    batches: list[FeedBatch | None] = []
    has_buffered = False

    def __init__(self, source: object, watched: object, after: int, stop: Event | None = None) -> None:
        self.after = after
        self.closed = False
        self.in_transaction = False
        self.progress = after
        self.opened.append(self)

    def read(self) -> FeedBatch | None:
        if self.batches:
            batch = self.batches.pop(0)
            if batch is not None and batch.parts:
                self.in_transaction = not batch.parts[-1].last
                self.progress = batch.progress
            return batch
        self.progress = self.progress // 10 * 10 + 10
        return FeedBatch([part(self.progress)], self.progress)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def feeds(monkeypatch: pytest.MonkeyPatch) -> list[FakeFeed]:
    monkeypatch.setattr(hubs, "DatabaseFeed", FakeFeed)
    FakeFeed.opened = []
    FakeFeed.batches = []
    return FakeFeed.opened


@pytest.fixture
def hub() -> Hub:
    log = ChangeLog()
    log.start(watermark(100), "f")
    source = MagicMock()
    source.oplog_start.return_value = None  # not to be known
    given: dict[str, Any] = {"source": source, "log": log, "private_feeds": 2, "stop": Event()}
    return Hub(**{field.name: given.get(field.name, MagicMock()) for field in dataclasses.fields(Hub) if field.init})


def changes(hub: Hub, place: int) -> Changes:
    return hub.changes(watermark(place), EDITION, Event(), lambda: False, lambda: None)


def texts(changes: Changes) -> list[str]:
    return [one.frames.decode() for one in changes.take(ALL, ALL, 0)]


# CHANGES


def test_what_the_log_has_comes_from_the_log(hub: Hub, feeds: list[FakeFeed]) -> None:
    hub.log.extend([entry(110, "live 110")])
    assert texts(changes(hub, 100)) == ["live 110"]
    assert not feeds


def test_who_is_behind_reads_by_himself_until_he_meets_the_log(hub: Hub, feeds: list[FakeFeed]) -> None:
    hub.log.extend([entry(110, "live 110")])
    found = changes(hub, 75)
    assert [texts(found) for _ in range(4)] == [["private 80"], ["private 90"], ["private 100"], ["live 110"]]
    assert [(feed.after, feed.closed) for feed in feeds] == [(75, True)]
    hub.log.extend([entry(120, "live 120")])
    assert texts(found) == ["live 120"]


def test_who_was_faster_than_the_log_gets_nothing_twice(hub: Hub) -> None:
    FakeFeed.batches = [FeedBatch([part(90), part(100), part(110), part(120)], 125)]
    found = changes(hub, 85)
    assert len(texts(found)) == 4
    hub.log.extend([entry(110, "live 110"), entry(120, "live 120"), entry(130, "live 130")])
    assert texts(found) == ["live 130"]


def test_what_is_at_hand_is_given_together(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slices of one reply are as many transactions of Zero less."""
    monkeypatch.setattr(FakeFeed, "has_buffered", property(lambda feed: len(feed.batches) % 4 != 0))
    FakeFeed.batches = [FeedBatch([part(at)], at) for at in range(10, 90, 10)]
    found = changes(hub, 5)
    assert [len(found.take(ALL, ALL, 0)), len(found.take(3, ALL, 0)), len(found.take(ALL, ALL, 0))] == [4, 3, 1]


def test_the_log_is_not_met_inside_of_a_transaction(hub: Hub) -> None:
    FakeFeed.batches = [
        FeedBatch([part(110, last=False)], 105),
        None,
        FeedBatch([part(110, first=False, last=False)], 105),
        FeedBatch([part(110, first=False)], 110),
    ]
    found = changes(hub, 95)
    hub.log.extend([entry(110, "live 110"), entry(120, "live 120")])
    got = [texts(found) for _ in range(5)]
    assert got == [["private 110"], [], ["private 110"], ["private 110"], ["live 120"]]


def test_who_goes_in_the_middle_leaves_nothing_behind(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was reading is ended at once, not when somebody looks for cycles."""
    ended: list[int] = []

    def entries(self: FakeBuilder, parts: Sequence[TransactionPart]) -> Iterator[list[Entry]]:
        try:
            for one in parts:
                yield [entry(one.position, "private", last=False)]
        finally:
            ended.append(1)

    monkeypatch.setattr(FakeBuilder, "entries", entries)
    FakeFeed.batches = [FeedBatch([part(90), part(95)], 95)]
    found = changes(hub, 85)
    assert len(found.take(1, ALL, 0)) == 1
    found.close()
    assert ended == [1]


def test_a_log_for_another_edition_is_not_met(hub: Hub) -> None:
    hub.log.start(watermark(100), "g")
    with pytest.raises(Evicted):
        changes(hub, 110)


def test_what_the_oplog_has_no_more_cannot_be_had(hub: Hub, feeds: list[FakeFeed]) -> None:
    """mongod itself would begin a stream before its oplog, where the replica set is younger than the place."""
    hub.source.oplog_start.return_value = 50  # type: ignore[attr-defined]
    with pytest.raises(ResumeLost, match="oplog"):
        changes(hub, 40)
    changes(hub, 60)
    changes(hub, 110)
    assert [feed.after for feed in feeds] == [60]


def test_only_so_many_read_by_themselves(hub: Hub, feeds: list[FakeFeed]) -> None:
    first, second = changes(hub, 5), changes(hub, 5)
    third: list[Changes] = []
    asked: list[bool] = []

    def wait_for_one() -> None:
        third.append(hub.changes(watermark(5), EDITION, Event(), lambda: bool(asked.append(True)), lambda: None))

    thread = Thread(target=wait_for_one, daemon=True)
    thread.start()
    wait_until(lambda: asked, "it waits, and is asked whether it still wants to")
    assert len(feeds) == 2
    first.close()
    thread.join(10)
    assert len(feeds) == 3
    for one in (second, *third):
        one.close()
        one.close()
    assert all(feed.closed for feed in feeds)
    changes(hub, 5)
    changes(hub, 5)


def test_who_gives_up_waiting_has_lost_no_position(hub: Hub) -> None:
    changes(hub, 5)
    changes(hub, 5)
    with pytest.raises(Stopped):
        hub.changes(watermark(5), EDITION, Event(), lambda: True, lambda: None)


def test_who_does_not_read_is_ended_where_others_wait(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads nothing, though its machine is there, would keep them waiting for ever."""
    monkeypatch.setattr(hubs, "STUCK", 0.05)
    hub.log.start(watermark(1000), "f")
    found: dict[str, Changes] = {}
    ended: list[str] = []

    def catch_up(name: str) -> Changes:
        def end() -> None:
            ended.append(name)
            found[name].close()  # as the end of its session does

        found[name] = hub.changes(watermark(5), EDITION, Event(), lambda: False, end)
        return found[name]

    catch_up("has taken nothing yet")
    assert texts(catch_up("stuck"))
    catch_up("third")
    assert ended == ["stuck"]
    found["third"].close()
    found["has taken nothing yet"].close()
    assert texts(catch_up("stuck"))
    assert texts(catch_up("last"))  # and none waits


# READINESS


def test_readiness_is_waited_for() -> None:
    readiness = Readiness()
    assert readiness.reason == "starting"
    assert not readiness.wait(0.01)
    results: list[bool] = []
    thread = Thread(target=lambda: results.append(readiness.wait(30)), daemon=True)
    thread.start()
    readiness.set("MongoDB is away")
    assert not results
    readiness.set(None)
    thread.join(10)
    assert results == [True]
    assert readiness.wait(0)
