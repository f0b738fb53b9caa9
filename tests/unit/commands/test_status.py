"""How ``zmsd status`` shows what it receives, also from a daemon of another version."""

from __future__ import annotations

from typing import Any

import pytest

from zmsd.commands.daemon_client import duration_text
from zmsd.commands.status import render


def shown(**data: Any) -> str:
    return "\n".join(render(data))


def test_missing_value_is_shown_as_dash() -> None:
    assert shown() == ("zmsd -: -\ndatabase -, MongoDB -, - of memory\nposition -, - behind; oplog headroom -")
    assert "\n-  " in shown(collections=[{}], sessions=[{}])
    assert shown(last_reload=None, rejected=None, collections=[], sessions=[]) == shown()


def test_position_without_a_backlog_is_up_to_date() -> None:
    assert "position w, up to date; " in shown(watermark="w", behind_seconds=0.0)
    assert "position w, 9.5 s behind; " in shown(watermark="w", behind_seconds=9.5)


def test_running_initial_sync_shows_progress() -> None:
    copy = {"collection": "users", "documents": 50, "estimated": 200, "eta_seconds": 90}
    text = shown(sessions=[{"app": "zero", "shard": 0, "state": "copying", "copy": copy}])
    assert "copying users [#####...............] 25%, 1 min 30 s left" in text
    copy |= {"estimated": 0, "eta_seconds": None}
    assert "copying  " in shown(sessions=[{"app": "zero", "shard": 0, "copy": copy}])


def test_queue_fill_is_shown() -> None:
    text = shown(collections=[{"name": "users", "queue": [3, 8]}, {"name": "rooms", "queue": None}])
    users, rooms = text.splitlines()[-2:]
    assert users.split()[:5] == ["users", "-", "-", "-", "3/8"]
    assert rooms.split()[:5] == ["rooms", "-", "-", "-", "-"]


def test_problems_are_shown() -> None:
    assert "refused\n  a.yaml:1:1: wrong" in shown(last_reload={"when": 0.0, "faults": ["a.yaml:1:1: wrong"]})
    text = shown(last_reload={"when": 0.0, "faults": [], "restart": ["feed", "server"]})
    assert "done\n  a restart is needed for: feed, server" in text
    assert "cannot be written: disk full" in shown(store_trouble="disk full")
    certificate = "the server's TLS certificate"
    assert f"{certificate} expires 20" in shown(now=2e9, certificate_end=2_000_000_000 + 86400)
    assert f"{certificate} expired 20" in shown(now=2e9, certificate_end=2_000_000_000 - 1)
    assert certificate not in shown(now=2e9, certificate_end=2_000_000_000 + 365 * 86400)
    rejected = {
        "counts": [{"table": "user", "reason": "no key", "count": 1200, "effect": "row not sent"}],
        "newest": [{"when": 0.0, "table": "user", "id": "x", "column": None}] * 9,
    }
    text = shown(rejected=rejected)
    assert "1,200" in text
    assert "row not sent" in text
    assert text.count("table=user id=x") == 5
    assert "column" not in text, "where it is not known"
    assert text.count("when=19") == 5, "a date, and no figure"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (9.5, "9.5 s"), (59, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (90_000, "1 d 1 h")],
)
def test_duration_is_shown_in_words(seconds: float, expected: str) -> None:
    assert duration_text(seconds) == expected
