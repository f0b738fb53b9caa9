"""Messages to systemd, and what the notifier sends between start and stop."""

from __future__ import annotations

import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from zmsd import systemd
from zmsd.systemd import READY_WITHIN_SECONDS, STATUS_INTERVAL_SECONDS, Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield a service manager's socket, which the environment names."""
    # not tmp_path: an address has room for 107 bytes
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"{folder}/notify" if request.param == "path" else f"@zmsd-test-{uuid.uuid4()}"
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def received(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def test_messages_sent_as_assignments(manager: socket.socket) -> None:
    assert systemd.ready("streaming, 2 sessions")
    assert received(manager) == ["READY=1", "STATUS=streaming, 2 sessions"]
    assert systemd.status("waiting for MongoDB")
    assert received(manager) == ["STATUS=waiting for MongoDB"]
    assert systemd.stopping()
    assert received(manager) == ["STOPPING=1", "STATUS=stopping"]
    assert systemd.watchdog()
    assert received(manager) == ["WATCHDOG=1"]


def test_reloading_carries_monotonic_time(manager: socket.socket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert systemd.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    first, second, third = received(manager)
    assert (first, third) == ("RELOADING=1", "STATUS=reloading")
    key, _, value = second.partition("=")
    assert key == "MONOTONIC_USEC"
    assert before <= int(value) <= after


def test_status_with_line_breaks_sent_as_one_assignment(manager: socket.socket) -> None:
    systemd.status("error:\nREADY=1\r\n é \udc80")
    assert received(manager) == ["STATUS=error: READY=1 é ?"]


def test_notify_returns_false_without_listener(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.ready("x")
    for address in ("", "relative", "vsock:2:1234", str(tmp_path / "absent"), "/" + "x" * 200, "@unbound-" + "x" * 8):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert not systemd.ready("x")


def test_notify_returns_false_when_queue_full(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "SEND_TIMEOUT_SECONDS", 0.01)
    # the kernel queues net.unix.max_dgram_qlen datagrams, then the sender waits
    assert not all(systemd.watchdog() for _ in range(5000))


@pytest.mark.parametrize(
    ("microseconds", "pid", "interval"),
    [
        ("60000000", "ours", 30.0),
        ("60000000", None, 30.0),
        ("60000000", "1", None),
        ("0", None, None),
        ("-1", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_watchdog_interval_read_from_environment(
    monkeypatch: pytest.MonkeyPatch, microseconds: str | None, pid: str | None, interval: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value.replace("ours", str(os.getpid())))
    assert systemd.watchdog_interval() == interval


class FakeManager:
    """A service manager whose clock a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self._sent: list[str] = []

    def listen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(systemd, "notify", lambda *lines: self._sent.append(" ".join(lines)))

    def received(self) -> list[str]:
        sent, self._sent = self._sent, []
        return sent


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeManager:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    listening = FakeManager()
    listening.listen(monkeypatch)
    return listening


def notifier_of(fake: FakeManager) -> Notifier:
    return Notifier(lambda: fake.now)


def test_ready_sent_once_when_serving(fake: FakeManager) -> None:
    notifier = notifier_of(fake)
    notifier.update(False, True, "not ready: starting")
    assert fake.received() == ["STATUS=not ready: starting"]
    assert not notifier.announced
    assert notifier.pause == 0.1
    notifier.update(True, True, "serving")
    assert fake.received() == ["READY=1 STATUS=serving"]
    assert notifier.announced
    assert notifier.pause == 1.0
    notifier.update(True, True, "serving")
    assert fake.received() == []
    notifier.update(False, True, "not ready: gone")
    notifier.update(True, True, "serving")
    assert fake.received() == ["STATUS=not ready: gone", "STATUS=serving"]


def test_ready_sent_with_reason_when_mongodb_stays_away(fake: FakeManager) -> None:
    notifier = notifier_of(fake)
    fake.now += 1000  # the time before the first update does not count: the documents were read
    notifier.update(False, True, "not ready: no primary")
    fake.now += READY_WITHIN_SECONDS - 0.1
    notifier.update(False, True, "not ready: no primary")
    assert fake.received() == ["STATUS=not ready: no primary"]
    fake.now += 0.1
    notifier.update(False, True, "not ready: no primary")
    assert fake.received() == ["READY=1 STATUS=not ready: no primary"]
    assert READY_WITHIN_SECONDS < 20
    notifier.update(True, True, "serving")
    assert fake.received() == ["STATUS=serving"]


def test_status_repeated_when_state_lasts(fake: FakeManager) -> None:
    notifier = notifier_of(fake)
    notifier.update(True, True, "serving")
    fake.received()
    fake.now += STATUS_INTERVAL_SECONDS - 0.1
    notifier.update(True, True, "serving")
    assert fake.received() == []
    fake.now += 0.1
    notifier.update(True, True, "serving")
    assert fake.received() == ["STATUS=serving"]


def test_watchdog_fed_only_while_alive(fake: FakeManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    notifier = notifier_of(fake)
    notifier.update(True, True, "serving")
    assert fake.received() == ["READY=1 STATUS=serving", "WATCHDOG=1"]
    fake.now += 1.9
    notifier.update(True, True, "serving")
    assert fake.received() == []
    fake.now += 0.1
    notifier.update(True, True, "serving")
    assert fake.received() == ["WATCHDOG=1"]
    fake.now += 5
    notifier.update(True, False, "serving")
    assert fake.received() == []
    notifier.update(True, True, "serving")
    assert fake.received() == ["WATCHDOG=1"]


def test_short_watchdog_interval_shortens_pause(fake: FakeManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    notifier = notifier_of(fake)
    notifier.update(True, True, "serving")
    assert notifier.pause == 0.25


def test_reload_ends_with_ready_sent_again(fake: FakeManager) -> None:
    notifier = notifier_of(fake)
    notifier.update(True, True, "serving")
    fake.received()
    notifier.reloading()
    notifier.reloaded("serving; the last reload was refused")
    first, second = fake.received()
    assert first.startswith("RELOADING=1 MONOTONIC_USEC=")
    assert second == "READY=1 STATUS=serving; the last reload was refused"
    notifier.update(True, True, "serving; the last reload was refused")
    assert fake.received() == []


def test_reload_before_ready_sends_nothing(fake: FakeManager) -> None:
    notifier = notifier_of(fake)
    notifier.update(False, True, "waiting")
    fake.received()
    notifier.reloading()
    notifier.reloaded("waiting")
    assert fake.received() == []
