"""How a request that timed out is repeated."""

from __future__ import annotations

from zmsd.pace import FIRST_SECONDS, LONGEST_SECONDS, Pace


def test_late_request_gets_more_time_and_a_smaller_batch() -> None:
    pace = Pace(1000)
    pace.late(busy=False)
    assert (pace.is_slow, pace.size) == (True, 250)
    assert FIRST_SECONDS < pace.seconds < 20, "a second stall is noticed within 20 s too"
    pace.late(busy=True)
    assert (pace.seconds, pace.size) == (60, 62)
    for _ in range(20):
        pace.late(busy=True)
    assert (pace.seconds, pace.size) == (LONGEST_SECONDS, 1)


def test_request_in_time_resets_deadline_and_size_grows_while_quick() -> None:
    pace = Pace(1000)
    pace.late(busy=True)
    pace.in_time(5.0)
    assert (pace.is_slow, pace.size) == (False, 250), "more would be late again"
    pace.in_time(0.1)
    assert pace.size == 500
    pace.in_time(1.0)
    pace.in_time(0.1)
    assert pace.size == 1000
