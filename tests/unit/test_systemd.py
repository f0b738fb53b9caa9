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


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a service manager, as the environment names it."""
    # not tmp_path: an address has room for 107 bytes
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"{folder}/notify" if request.param == "path" else f"@zmsd-test-{uuid.uuid4()}"
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def received(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def test_each_message_has_its_assignments(manager: socket.socket) -> None:
    assert systemd.ready("streaming, 2 sessions")
    assert received(manager) == ["READY=1", "STATUS=streaming, 2 sessions"]
    assert systemd.status("waiting for MongoDB")
    assert received(manager) == ["STATUS=waiting for MongoDB"]
    assert systemd.stopping()
    assert received(manager) == ["STOPPING=1", "STATUS=stopping"]
    assert systemd.watchdog()
    assert received(manager) == ["WATCHDOG=1"]


def test_reload_carries_the_monotonic_time(manager: socket.socket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert systemd.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    first, second, third = received(manager)
    assert (first, third) == ("RELOADING=1", "STATUS=reloading")
    key, _, value = second.partition("=")
    assert key == "MONOTONIC_USEC"
    assert before <= int(value) <= after


def test_status_is_one_assignment(manager: socket.socket) -> None:
    systemd.status("error:\nREADY=1\r\n é \udc80")
    assert received(manager) == ["STATUS=error: READY=1 é ?"]


def test_message_without_listener_is_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.ready("x")
    for address in ("", "relative", "vsock:2:1234", str(tmp_path / "absent"), "/" + "x" * 200, "@nobody-" + "x" * 8):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert not systemd.ready("x")


def test_manager_that_does_not_read_does_not_block(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "SEND_TIMEOUT", 0.01)
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
def test_watchdog_interval_is_half_of_watchdog_usec(
    monkeypatch: pytest.MonkeyPatch, microseconds: str | None, pid: str | None, interval: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value.replace("ours", str(os.getpid())))
    assert systemd.watchdog_interval() == interval
