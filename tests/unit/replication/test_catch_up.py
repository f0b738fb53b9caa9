"""Catch-up feeds: the changes after a session's watermark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event, Thread

import pytest

from tests.support.wait import wait_until
from tests.unit.fakes import FakeActive, FakeBuilder, FakeSource
from zmsd.errors import Evicted, ResumeLost, Stopped
from zmsd.mongodb.reader import Health
from zmsd.mongodb.sequencer import FeedBatch, TransactionPart
from zmsd.position import watermark
from zmsd.replication import catch_up
from zmsd.replication.catch_up import CatchUpFeeds, Changes
from zmsd.replication.change_log import ChangeLog, Entry

ALL = 1 << 30


ACTIVE = FakeActive(lambda one: f"catch-up {one.position}")


def entry(at: int, text: str, *, ends: bool = True) -> Entry:
    return Entry(watermark(at), 0, 1, text.encode(), ends)


def part(at: int, *, first: bool = True, last: bool = True) -> TransactionPart:
    return TransactionPart(at, [], first, last)


class FakeFeed:
    """A fake catch-up feed: a transaction at every tenth position, each in a batch of its own."""

    opened: list[FakeFeed]
    batches: list[FeedBatch | None] = []
    has_buffered = False

    def __init__(self, source: object, watched: object, after: int, stop: Event | None = None) -> None:
        self.after = after
        self.closed = False
        self.in_transaction = False
        self.progress = after
        self.health = Health()
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
    monkeypatch.setattr(catch_up, "DatabaseFeed", FakeFeed)
    FakeFeed.opened = []
    FakeFeed.batches = []
    return FakeFeed.opened


class Scene:
    """Catch-up feeds with a log that begins at 100."""

    def __init__(self) -> None:
        self.log = ChangeLog()
        self.log.start(watermark(100), ACTIVE.fingerprint)
        self.source = FakeSource()
        self.feeds = CatchUpFeeds(self.source, self.log, 2)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def changes(scene: Scene, after: int) -> Changes:
    return scene.feeds.changes(watermark(after), ACTIVE, Event(), lambda: False, lambda: None)


def texts(changes: Changes) -> list[str]:
    return [one.frames.decode() for one in changes.take(ALL, ALL, 0)]


# CHANGES


def test_changes_in_the_log_come_from_the_log(scene: Scene, feeds: list[FakeFeed]) -> None:
    scene.log.extend([entry(110, "live 110")])
    assert texts(changes(scene, 100)) == ["live 110"]
    assert not feeds


def test_catch_up_older_than_the_log_ends_when_it_meets_the_log(scene: Scene, feeds: list[FakeFeed]) -> None:
    scene.log.extend([entry(110, "live 110")])
    found = changes(scene, 75)
    assert [texts(found) for _ in range(4)] == [["catch-up 80"], ["catch-up 90"], ["catch-up 100"], ["live 110"]]
    assert [(feed.after, feed.closed) for feed in feeds] == [(75, True)]
    scene.log.extend([entry(120, "live 120")])
    assert texts(found) == ["live 120"]


def test_catch_up_ahead_of_the_log_sends_nothing_twice(scene: Scene) -> None:
    FakeFeed.batches = [FeedBatch([part(90), part(100), part(110), part(120)], 125)]
    found = changes(scene, 85)
    assert len(texts(found)) == 4
    scene.log.extend([entry(110, "live 110"), entry(120, "live 120"), entry(130, "live 130")])
    assert texts(found) == ["live 130"]


def test_catch_up_buffered_batches_are_joined(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining the slices of one reply saves that many transactions of Zero."""
    monkeypatch.setattr(FakeFeed, "has_buffered", property(lambda feed: len(feed.batches) % 4 != 0))
    FakeFeed.batches = [FeedBatch([part(at)], at) for at in range(10, 90, 10)]
    found = changes(scene, 5)
    assert [len(found.take(ALL, ALL, 0)), len(found.take(3, ALL, 0)), len(found.take(ALL, ALL, 0))] == [4, 3, 1]


def test_stalled_names_the_feed_that_waits_for_mongodb(scene: Scene, feeds: list[FakeFeed]) -> None:
    first, second = changes(scene, 75), changes(scene, 85)
    assert scene.feeds.stalled(0.0) is None
    feeds[1].health.asks("database")
    reason = f"catch-up feed of the client at watermark {watermark(85)}: database: MongoDB has not answered for 0 s"
    assert scene.feeds.stalled(0.0) == reason
    assert scene.feeds.stalled(15.0) is None
    second.close()
    assert scene.feeds.stalled(0.0) is None
    first.close()


def test_catch_up_inside_a_transaction_does_not_switch_to_the_log(scene: Scene) -> None:
    FakeFeed.batches = [
        FeedBatch([part(110, last=False)], 105),
        None,
        FeedBatch([part(110, first=False, last=False)], 105),
        FeedBatch([part(110, first=False)], 110),
    ]
    found = changes(scene, 95)
    scene.log.extend([entry(110, "live 110"), entry(120, "live 120")])
    got = [texts(found) for _ in range(5)]
    assert got == [["catch-up 110"], [], ["catch-up 110"], ["catch-up 110"], ["live 120"]]


def test_catch_up_closed_early_closes_its_generators(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change stream is closed at once, not at the next garbage collection."""
    ended: list[int] = []

    def entries(self: FakeBuilder, parts: Sequence[TransactionPart]) -> Iterator[list[Entry]]:
        try:
            for one in parts:
                yield [entry(one.position, "private", ends=False)]
        finally:
            ended.append(1)

    monkeypatch.setattr(FakeBuilder, "entries", entries)
    FakeFeed.batches = [FeedBatch([part(90), part(95)], 95)]
    found = changes(scene, 85)
    assert len(found.take(1, ALL, 0)) == 1
    found.close()
    assert ended == [1]


def test_changes_log_for_another_publication_is_evicted(scene: Scene) -> None:
    scene.log.start(watermark(100), "g")
    with pytest.raises(Evicted):
        changes(scene, 110)


def test_changes_older_than_the_oplog_lose_the_position(scene: Scene, feeds: list[FakeFeed]) -> None:
    """mongod itself would begin a stream before its oplog, where the replica set is younger than the watermark."""
    scene.source.first = 50
    with pytest.raises(ResumeLost, match="oplog"):
        changes(scene, 40)
    changes(scene, 60)
    changes(scene, 110)
    assert [feed.after for feed in feeds] == [60]


def test_catch_up_over_the_limit_waits_for_a_free_feed(scene: Scene, feeds: list[FakeFeed]) -> None:
    first, second = changes(scene, 5), changes(scene, 5)
    third: list[Changes] = []
    asked: list[bool] = []

    def wait_for_one() -> None:
        third.append(scene.feeds.changes(watermark(5), ACTIVE, Event(), lambda: bool(asked.append(True)), lambda: None))

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
    changes(scene, 5)
    changes(scene, 5)


def test_catch_up_given_up_while_waiting_is_stopped(scene: Scene) -> None:
    changes(scene, 5)
    changes(scene, 5)
    with pytest.raises(Stopped):
        scene.feeds.changes(watermark(5), ACTIVE, Event(), lambda: True, lambda: None)


def test_catch_up_unread_is_ended_while_others_wait(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads nothing although its machine is reachable would make them wait without end."""
    monkeypatch.setattr(catch_up, "STUCK_SECONDS", 0.05)
    scene.log.start(watermark(1000), ACTIVE.fingerprint)
    found: dict[str, Changes] = {}
    ended: list[str] = []

    def open_feed(name: str) -> Changes:
        def end() -> None:
            ended.append(name)
            found[name].close()  # as the end of the session does

        found[name] = scene.feeds.changes(watermark(5), ACTIVE, Event(), lambda: False, end)
        return found[name]

    open_feed("has taken nothing yet")
    assert texts(open_feed("stuck"))
    open_feed("third")
    assert ended == ["stuck"]
    found["third"].close()
    found["has taken nothing yet"].close()
    assert texts(open_feed("stuck"))
    assert texts(open_feed("last"))  # and none waits
