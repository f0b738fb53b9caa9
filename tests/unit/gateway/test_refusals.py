"""The log of refused requests: one line of each kind in a minute, and a count of the others."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FakeClock, lines
from zmsd.gateway.refusals import Refusals


def test_refusals_of_one_kind_are_one_line_and_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    refusals = Refusals(clock)
    for number in range(60):
        refusals.refused("token refused", f"192.0.2.{number}", 401, "why")
        refusals.refused("Origin refused", "192.0.2.1", 403, "why not")
    refusals.flush()
    assert lines(caplog) == [
        'request refused address=192.0.2.0 status=401 kind="token refused" reason=why',
        'request refused address=192.0.2.1 status=403 kind="Origin refused" reason="why not"',
    ]
    clock.now = 60.0
    refusals.flush()
    refusals.flush()
    assert lines(caplog) == [
        'more requests refused kind="token refused" count=59 seconds=60',
        'more requests refused kind="Origin refused" count=59 seconds=60',
    ]


def test_refusal_after_the_minute_is_logged_in_full(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    refusals = Refusals(clock)
    refusals.refused("token refused", "192.0.2.1", 401, "why")
    clock.now = 61.0
    refusals.flush()
    lines(caplog)
    refusals.refused("token refused", "192.0.2.2", 401, "why")
    assert lines(caplog) == ['request refused address=192.0.2.2 status=401 kind="token refused" reason=why']
