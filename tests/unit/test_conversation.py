"""What systemd is told from start to stop."""

from __future__ import annotations

import pytest

from zmsd import systemd
from zmsd.systemd import READY_WITHIN_SECONDS, STATUS_EVERY, Conversation


class Manager:
    """Time stands still unless it is told to pass."""

    def __init__(self) -> None:
        self.now = 100.0
        self.said: list[str] = []

    def listen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(systemd, "notify", lambda *lines: self.said.append(" ".join(lines)))

    def heard(self) -> list[str]:
        said, self.said = self.said, []
        return said


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Manager:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    listening = Manager()
    listening.listen(monkeypatch)
    return listening


def conversation(manager: Manager) -> Conversation:
    return Conversation(lambda: manager.now)


def test_ready_is_sent_once_when_serving(manager: Manager) -> None:
    talk = conversation(manager)
    talk.tick(False, True, "not ready: starting")
    assert manager.heard() == ["STATUS=not ready: starting"]
    assert not talk.announced
    assert talk.pause == 0.1
    talk.tick(True, True, "serving")
    assert manager.heard() == ["READY=1 STATUS=serving"]
    assert talk.announced
    assert talk.pause == 1.0
    talk.tick(True, True, "serving")
    assert manager.heard() == []
    talk.tick(False, True, "not ready: gone")
    talk.tick(True, True, "serving")
    assert manager.heard() == ["STATUS=not ready: gone", "STATUS=serving"]


def test_ready_is_sent_with_the_reason_when_mongodb_is_unreachable(manager: Manager) -> None:
    talk = conversation(manager)
    manager.now += 1000  # the time before the first tick does not count: the documents were read
    talk.tick(False, True, "not ready: no primary")
    manager.now += READY_WITHIN_SECONDS - 0.1
    talk.tick(False, True, "not ready: no primary")
    assert manager.heard() == ["STATUS=not ready: no primary"]
    manager.now += 0.1
    talk.tick(False, True, "not ready: no primary")
    assert manager.heard() == ["READY=1 STATUS=not ready: no primary"]
    assert READY_WITHIN_SECONDS < 20
    talk.tick(True, True, "serving")
    assert manager.heard() == ["STATUS=serving"]


def test_status_is_repeated_while_a_state_lasts(manager: Manager) -> None:
    talk = conversation(manager)
    talk.tick(True, True, "serving")
    manager.heard()
    manager.now += STATUS_EVERY - 0.1
    talk.tick(True, True, "serving")
    assert manager.heard() == []
    manager.now += 0.1
    talk.tick(True, True, "serving")
    assert manager.heard() == ["STATUS=serving"]


def test_watchdog_is_fed_only_while_alive(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    talk = conversation(manager)
    talk.tick(True, True, "serving")
    assert manager.heard() == ["READY=1 STATUS=serving", "WATCHDOG=1"]
    manager.now += 1.9
    talk.tick(True, True, "serving")
    assert manager.heard() == []
    manager.now += 0.1
    talk.tick(True, True, "serving")
    assert manager.heard() == ["WATCHDOG=1"]
    manager.now += 5
    talk.tick(True, False, "serving")
    assert manager.heard() == []
    talk.tick(True, True, "serving")
    assert manager.heard() == ["WATCHDOG=1"]


def test_short_watchdog_shortens_the_pause(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    talk = conversation(manager)
    talk.tick(True, True, "serving")
    assert talk.pause == 0.25


def test_reload_ends_with_ready(manager: Manager) -> None:
    talk = conversation(manager)
    talk.tick(True, True, "serving")
    manager.heard()
    talk.reloading()
    talk.reloaded("serving; the last reload was refused")
    first, second = manager.heard()
    assert first.startswith("RELOADING=1 MONOTONIC_USEC=")
    assert second == "READY=1 STATUS=serving; the last reload was refused"
    talk.tick(True, True, "serving; the last reload was refused")
    assert manager.heard() == []


def test_reload_before_ready_sends_nothing(manager: Manager) -> None:
    talk = conversation(manager)
    talk.tick(False, True, "waiting")
    manager.heard()
    talk.reloading()
    talk.reloaded("waiting")
    assert manager.heard() == []
