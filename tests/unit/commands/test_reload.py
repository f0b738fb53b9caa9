"""``zmsd reload``: the signal, the wait for the result, and what is printed. The daemon is a handler of SIGHUP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.main_thread import write_settings
from zmsd.commands import reload as reloads
from zmsd.commands.reload import reload
from zmsd.errors import ConfigError, ZmsdError
from zmsd.reload_result import ReloadRecorder


@contextmanager
def daemon(directory: Path, **result: Any) -> Iterator[list[int]]:
    """Answer each SIGHUP to this process with a result, and return the signals."""
    recorder = ReloadRecorder(directory)
    signals: list[int] = []

    def answer(number: int, frame: object) -> None:
        signals.append(number)
        recorder.begin()
        recorder.end(**result)

    before = signal.signal(signal.SIGHUP, answer)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGHUP, before)


def test_reload_prints_what_the_daemon_has_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_settings(tmp_path)
    with daemon(tmp_path, summary="reloaded", restart=("mongodb.uri",), credentials=("token",)) as signals:
        assert reload(file, {}, os.getpid()) == 0
    assert signals == [signal.SIGHUP]
    assert capsys.readouterr().out.splitlines() == [
        "reloaded",
        "changed settings need a restart: mongodb.uri",
        "a changed credential needs a restart: token",
    ]


def test_reload_that_the_daemon_refuses_fails_with_each_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(tmp_path, faults=("one", "two")):
        assert reload(write_settings(tmp_path), {}, os.getpid()) == 1
    assert capsys.readouterr().err.splitlines() == ["reload refused: one", "reload refused: two"]


def test_reload_of_wrong_files_sends_no_signal(tmp_path: Path) -> None:
    with daemon(tmp_path) as signals, pytest.raises(ConfigError):
        reload(write_settings(tmp_path, feed={"heartbeat": -1}), {}, os.getpid())
    assert not signals


def test_reload_does_not_need_the_credentials(tmp_path: Path) -> None:
    """They may be readable for the daemon only."""
    with daemon(tmp_path, summary="reloaded"):
        assert reload(write_settings(tmp_path, server={"port": 0, "token_file": "none"}), {}, os.getpid()) == 0


def test_result_of_an_earlier_reload_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloads, "_TIMEOUT_SECONDS", 0.2)
    recorder = ReloadRecorder(tmp_path)
    recorder.begin()
    recorder.end()
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with pytest.raises(ZmsdError, match="did not end its reload within 0 s"):
            reload(write_settings(tmp_path), {}, os.getpid())
    finally:
        signal.signal(signal.SIGHUP, before)


def test_process_that_has_ended_is_an_error(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    with pytest.raises(ZmsdError, match=f"no process {ended.pid}, it has ended or --pid is wrong"):
        reload(write_settings(tmp_path), {}, ended.pid)


def test_process_that_sighup_would_end_gets_no_signal(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        with pytest.raises(ZmsdError, match=f"process {other.pid} is not a zmsd"):
            reload(write_settings(tmp_path), {}, other.pid)
        other.communicate(b"\n", timeout=30)
        assert other.returncode == 0


def test_reload_without_a_unit_needs_the_process(tmp_path: Path) -> None:
    with pytest.raises(ZmsdError, match="name the daemon with --pid"):
        reload(write_settings(tmp_path), {}, None)
