"""The main thread of a daemon whose MongoDB cannot be reached."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.main_thread import RunningDaemon, running_daemon, write_settings
from tests.support.wait import wait_until


def test_stop_requested_twice_returns_highest_exit_code(tmp_path: Path) -> None:
    started = RunningDaemon(write_settings(tmp_path))
    started.daemon.stop(1)
    started.daemon.stop(0)
    started.thread.start()
    assert started.join() == 1


def test_function_called_soon_runs_in_main_thread(tmp_path: Path) -> None:
    names: list[str] = []
    with running_daemon(write_settings(tmp_path)) as started:
        started.daemon.call_soon(lambda: names.append(started.thread.name))
        wait_until(lambda: names, "the function was called")
    assert names == ["main of the daemon"]
    assert started.join() == 0


def test_daemon_exits_with_code_1_when_a_thread_dies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started = RunningDaemon(write_settings(tmp_path))
    started.daemon.call_soon(lambda: started.daemon._on_thread_death("listener"))
    with caplog.at_level(logging.CRITICAL, "zmsd.daemon"):
        started.thread.start()
        assert started.join() == 1
    assert "thread died, exiting thread=listener" in caplog.text
