"""What zmsd waits for while no error explains it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.fakes import FakeClock, FakeDispatcher, FakeLineage, hub
from zmsd.metadata.progress import MAJORITY_SECONDS, MajorityCommitPoint, Progress
from zmsd.replication.hub import STARTING, Readiness


def hello(majority: int, newest: int) -> dict[str, Any]:
    return {"lastWrite": {"majorityOpTime": {"ts": majority, "t": 1}, "opTime": {"ts": newest, "t": 1}}}


def test_commit_point_stalls_while_the_primary_writes() -> None:
    clock = FakeClock()
    point = MajorityCommitPoint(clock)
    point.observe(hello(5, 7))
    clock.now = 40.0
    point.observe(hello(5, 7))
    assert point.stalled_seconds == 0, "the primary has written nothing either"
    point.observe(hello(5, 8))
    assert point.stalled_seconds == 40
    clock.now = 50.0
    assert point.stalled_seconds == 50
    point.observe(hello(6, 8))
    assert point.stalled_seconds == 0


@pytest.mark.parametrize("reply", [{}, {"msg": "isdbgrid"}, {"lastWrite": {"opTime": {"ts": 9}}}])
def test_commit_point_that_is_not_reported_is_forgotten(reply: dict[str, Any]) -> None:
    clock = FakeClock()
    point = MajorityCommitPoint(clock)
    point.observe(hello(5, 7))
    clock.now = 40.0
    point.observe(hello(5, 8))
    point.observe(reply)
    assert point.stalled_seconds == 0
    point.observe(hello(5, 9))
    assert point.stalled_seconds == 0, "the time begins again"


class Waits:
    """A progress, and what it looks at."""

    def __init__(self) -> None:
        self.dispatcher, self.lineage, self.readiness = FakeDispatcher(hub()), FakeLineage(), Readiness()
        self.readiness.set(None)
        self.progress = Progress(self.dispatcher, self.lineage, self.readiness)


def test_progress_waits_for_nothing_while_changes_may_come() -> None:
    waits = Waits()
    assert waits.progress.waits is None
    assert waits.progress.waits_for_majority is None
    waits.dispatcher.age = 3.0
    assert waits.progress.age == 3.0


def test_commit_point_is_reported_after_the_time_of_an_election() -> None:
    waits, clock = Waits(), FakeClock()
    point = waits.progress.majority = MajorityCommitPoint(clock)
    point.observe(hello(5, 7))
    point.observe(hello(5, 8))
    clock.now = MAJORITY_SECONDS - 1
    assert waits.progress.waits_for_majority is None
    clock.now = MAJORITY_SECONDS
    assert (waits.progress.waits_for_majority or "").startswith(
        "MongoDB's majority commit point has not moved for 30 s while the primary goes on writing"
    )


def test_search_of_the_oplog_is_named_after_two_seconds() -> None:
    waits = Waits()
    waits.dispatcher.waits = "order: MongoDB has not answered for 16 s"
    waits.lineage.search = ("the change at watermark x", 1.9)
    assert waits.progress.waits == "order: MongoDB has not answered for 16 s"
    waits.lineage.search = ("the change at watermark x", 2.0)
    assert waits.progress.waits == "MongoDB has been scanning its oplog for 2 s for the change at watermark x"


@pytest.mark.parametrize(("reason", "known"), [(None, False), (STARTING, False), ("MongoDB is away", True)])
def test_stalled_dispatcher_is_named_unless_an_error_is_known(reason: str | None, known: bool) -> None:
    waits = Waits()
    waits.readiness.set(reason)
    waits.dispatcher.waits = "order: MongoDB has not answered for 16 s"
    assert (waits.progress.waits is None) is known
