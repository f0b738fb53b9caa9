from __future__ import annotations

import logging
from itertools import islice
from threading import Event

import pytest

from zmsd.errors import SourceRefused, SourceUnavailable, Stopped
from zmsd.retry import RetryLog, backoff, retry_while_unavailable

log = logging.getLogger("zmsd.test")


def test_backoff_doubles_up_to_a_limit_with_jitter() -> None:
    waits = list(islice(backoff(0.1, 10.0), 20))
    for number, wait in enumerate(waits):
        most = min(0.1 * 2**number, 10.0)
        assert most / 2 <= wait <= most
    assert len(set(waits)) == len(waits)


def test_recurring_failure_is_logged_at_intervals(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    caplog.set_level(logging.INFO, logger="zmsd.test")
    feed = RetryLog(log, "feed", every=30, clock=lambda: now)
    feed.recovered()
    for _ in range(100):
        feed.failed(OSError("no route"), collection="orders")
        now += 1
    assert feed.attempts == 100
    feed.recovered(collection="orders")
    assert feed.attempts == 0
    feed.recovered()
    feed.failed(OSError())
    assert [record.getMessage() for record in caplog.records] == [
        'feed failed error="no route" collection=orders',
        'feed failed error="no route" attempts=31 seconds=30.0 collection=orders',
        'feed failed error="no route" attempts=61 seconds=60.0 collection=orders',
        'feed failed error="no route" attempts=91 seconds=90.0 collection=orders',
        "feed recovered attempts=100 seconds=100.0 collection=orders",
        "feed failed error=OSError()",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4 + ["INFO", "WARNING"]


def test_worse_failure_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    feed = RetryLog(log, "feed", clock=lambda: 0.0)
    for level in (logging.WARNING, logging.ERROR, logging.ERROR, logging.WARNING, logging.ERROR):
        feed.failed("x", level=level)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


def test_failures_that_alternate_are_each_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    feed = RetryLog(log, "feed", clock=lambda: 0.0)
    for _ in range(2):
        for error in (OSError("no route"), ValueError("its clock"), OSError("no route"), ValueError("its clock")):
            feed.failed(error)
        feed.recovered()
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["no route" in message for message in messages] == [True, False] * 2


def test_retry_while_unavailable_returns_the_first_success(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="zmsd")
    errors = [SourceUnavailable("away")]

    def call() -> int:
        if errors:
            raise errors.pop()
        return 7

    assert retry_while_unavailable("lookup", call, Event()) == 7
    assert [record.getMessage().partition(" error")[0].partition(" attempts")[0] for record in caplog.records] == [
        "lookup failed",
        "lookup recovered",
    ]


@pytest.mark.parametrize(
    ("error", "raised"), [(SourceUnavailable("away"), Stopped), (SourceRefused("no"), SourceRefused)]
)
def test_retry_while_unavailable_ends_on_stop_or_another_error(error: Exception, raised: type[Exception]) -> None:
    stop = Event()
    stop.set()

    def call() -> None:
        raise error

    with pytest.raises(raised):
        retry_while_unavailable("lookup", call, stop)
