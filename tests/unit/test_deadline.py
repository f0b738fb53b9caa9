from __future__ import annotations

from zmsd.deadline import Deadline


def test_waits_share_one_budget() -> None:
    now = 100.0
    deadline = Deadline(25, clock=lambda: now)
    assert deadline.remaining() == 25
    now += 24
    assert deadline.remaining() == 1
    assert not deadline.expired
    now += 1
    assert deadline.expired
    now += 1000
    assert deadline.remaining() == 0


def test_deadline_of_zero_seconds_is_expired() -> None:
    deadline = Deadline(0)
    assert deadline.expired
    assert deadline.remaining() == 0


def test_deadline_uses_the_monotonic_clock() -> None:
    deadline = Deadline(60)
    assert 59 < deadline.remaining() <= 60
    assert not deadline.expired
