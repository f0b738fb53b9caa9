"""A best-effort write of the newest value."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from zmsd.errors import StoreError
from zmsd.replication import throttled_write
from zmsd.replication.throttled_write import ThrottledWrite

log = logging.getLogger(__name__)


def throttled(write: Callable[[int], None]) -> ThrottledWrite[int]:
    return ThrottledWrite(write, log, "keeping a number")


def test_only_the_newest_value_is_written_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttled_write, "INTERVAL_SECONDS", 1000)
    written: list[int] = []
    write = throttled(written.append)
    for number in range(3):
        write.put(number)
    write.flush(now=True)
    write.put(3)
    write.flush()
    assert written == [2], "the interval is not over"
    write.flush(now=True)
    write.flush(now=True)
    assert written == [2, 3]


def test_value_is_written_when_the_interval_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttled_write, "INTERVAL_SECONDS", 0)
    written: list[int] = []
    write = throttled(written.append)
    for number in range(3):
        write.put(number)
        write.flush()
    assert written == [0, 1, 2]


def test_discarded_value_is_not_written() -> None:
    written: list[int] = []
    write = throttled(written.append)
    write.put(1)
    write.discard()
    write.flush(now=True)
    assert not written


def test_failed_write_is_logged_and_repeated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    written: list[int] = []
    broken = True

    def attempt(number: int) -> None:
        if broken:
            raise StoreError("disk full")
        written.append(number)

    write = throttled(attempt)
    write.put(1)
    write.flush(now=True)
    assert "keeping a number failed" in caplog.text
    broken = False
    write.flush(now=True)
    assert written == [1]
    assert "keeping a number recovered" in caplog.text
