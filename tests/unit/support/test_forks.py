"""``tests.support.forks``: a fork is the same as ``python -m zmsd``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import ROOT
from tests.support.forks import Fork, fork_server
from tests.support.main_thread import write_settings
from tests.support.wait import wait_until


def start(directory: Path, *arguments: str, **environment: str) -> Fork:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
        return fork_server().start(arguments, directory, env, out.fileno(), err.fileno())


@pytest.mark.parametrize("arguments", [["--version"], ["check", "--help"], ["check"], ["nothing"]], ids=" ".join)
def test_fork_has_output_and_exit_status_of_the_program(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zmsd", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    fork = start(tmp_path, *arguments)
    assert fork.wait(30) == done.returncode
    assert (tmp_path / "out").read_bytes() == done.stdout
    assert (tmp_path / "err").read_bytes() == done.stderr
    assert fork.poll() == done.returncode, "also when it is asked again"


def test_fork_has_its_own_environment(tmp_path: Path) -> None:
    fork = start(tmp_path, "check", "--offline", MONGODB_URI="wrong://uri")
    assert fork.wait(30) == 78
    assert "MONGODB_URI" in (tmp_path / "err").read_text()
    assert "MONGODB_URI" not in os.environ


def test_fork_obeys_signals_in_a_session_of_its_own(tmp_path: Path) -> None:
    file = write_settings(tmp_path)
    fork = start(tmp_path, "run", "--config", file.name)
    wait_until(lambda: "listening" in (tmp_path / "err").read_text(), "the daemon runs", 30)
    assert fork.poll() is None
    assert os.getsid(fork.pid) == fork.pid
    with pytest.raises(subprocess.TimeoutExpired):
        fork.wait(0.01)
    fork.send_signal(signal.SIGTERM)
    assert fork.wait(30) == 0
    fork.kill()  # harmless, it has ended
    fork = start(tmp_path, "run", "--config", file.name)
    fork.kill()
    assert fork.wait(30) == -signal.SIGKILL
