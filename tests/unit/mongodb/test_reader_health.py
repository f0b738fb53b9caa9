"""Which quiet readers are known to be alive, for the watchdog."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zmsd.mongodb.reader import Health
from zmsd.prometheus import Counter
from zmsd.replication import dispatcher as dispatchers
from zmsd.replication.dispatcher import Dispatcher


def test_reader_that_retries_or_opens_may_be_quiet() -> None:
    failures = Counter()
    health = Health(failures)
    assert health.quiet_deadline == 0
    health.opening("order")
    assert health.quiet_deadline - time.monotonic() > 600, "the server scans the oplog"
    assert health.problem is None
    health.failed("order", "away", 10.0)
    assert 60 < health.quiet_deadline - time.monotonic() <= 70
    health.failed("users", "not authorized", 0.1)
    assert health.problem == "order: away; users: not authorized"
    assert failures.value() == 2
    health.succeeded("order")
    assert 59 < health.quiet_deadline - time.monotonic() <= 60.1
    health.succeeded("users")
    assert health.quiet_deadline == 0
    assert health.problem is None


def test_dispatcher_is_alive_while_a_reader_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatchers, "HANGING_SECONDS", 0.0)
    nothing = cast(Any, SimpleNamespace(log=None, readiness=None))
    waiting = Dispatcher(nothing, cast(Any, None), cast(Any, None), 60.0, print)
    waiting.thread = cast(Any, SimpleNamespace(is_alive=lambda: True))
    assert not waiting.is_alive()
    health = Health()
    waiting._feed = cast(Any, SimpleNamespace(health=health))
    assert not waiting.is_alive()
    health.failed("users", "away", 1.0)
    assert waiting.is_alive()
    health.succeeded("users")
    assert not waiting.is_alive()


def test_reader_that_gets_no_answer_is_named() -> None:
    health = Health()
    health.opening("order")
    health.asks("order")
    health.asks("users")
    assert health.stalled(15) is None
    assert health.stalled(0) == (
        "order: MongoDB has been scanning its oplog for 0 s to open the change stream; "
        "users: MongoDB has not answered for 0 s"
    )
    health.answered("order")
    health.answered("users")
    assert health.stalled(0) is None


def test_dispatcher_without_progress_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = cast(Any, SimpleNamespace(log=None, readiness=None))
    waiting = Dispatcher(nothing, cast(Any, None), cast(Any, None), 60.0, print)
    assert waiting.stalled is None
    monkeypatch.setattr(dispatchers, "STALLED_SECONDS", 0.0)
    assert waiting.stalled == "the dispatcher has made no progress for 0 s"
    health = Health()
    health.asks("users")
    waiting._feed = cast(Any, SimpleNamespace(health=health))
    assert waiting.stalled == "users: MongoDB has not answered for 0 s"
