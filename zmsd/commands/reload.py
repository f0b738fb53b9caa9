"""``zmsd reload``: have the running daemon read its settings and documents again, and wait for the result."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from zmsd import log as logs
from zmsd.commands.unit import Unit, load_settings, unit_of
from zmsd.config.partial import without_credentials
from zmsd.errors import ZmsdError, reason_of
from zmsd.log import write_line
from zmsd.reload_result import ReloadResult, read_result
from zmsd.schema.loading import load_documents

_TIMEOUT_SECONDS = 75.0
"""Time for the daemon to end a reload; systemd gives ExecReload= 90 s."""
_INTERVAL_SECONDS = 0.05


def reload(path: Path | None, environ: Mapping[str, str], pid: int | None) -> int:
    """Check the files, send SIGHUP and wait for the result; return the exit code, 1 if the daemon refuses.

    Raises ConfigError for errors in the files, and then sends no signal. Only the daemon reads the credentials: before
    systemd 255 the process of ExecReload= may not see them.

    :param pid: process id of the daemon; None for the main process of the unit that runs with this file
    """
    logs.setup("error")
    settings = load_settings(path, environ, concerns=without_credentials())
    load_documents(settings, keep=False)
    unit = unit_of(path, environ)
    pid = pid or _main_pid(unit)
    result = _signal(pid, settings.watermarks.path.parent)
    for error in result.faults:
        write_line(f"reload refused: {error}", sys.stderr, begin=logs.priority_prefix(40, sys.stderr))
    if result.faults:
        return 1
    write_line(result.summary)
    if result.restart:
        write_line(f"changed settings need a restart: {', '.join(result.restart)}")
    if unit is not None:
        for name, source in unit.changed(result.credentials):
            write_line(f"credential {name} has changed since the start ({source}): systemctl restart {unit.name}")
    elif result.credentials:
        write_line(f"a changed credential needs a restart: {', '.join(result.credentials)}")
    return 0


def _main_pid(unit: Unit | None) -> int:
    if unit is None:
        raise ZmsdError("no systemd unit runs with these settings: name the daemon with --pid")
    pid = unit.main_pid()
    if pid is None:
        raise ZmsdError(f"{unit.name} does not run: systemctl start {unit.name}")
    return pid


def _handles_sighup(pid: int) -> bool:
    """Return whether a process has a handler of SIGHUP (proc_pid_status(5)); True if that cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (caught,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    except (OSError, ValueError):
        return True
    return bool(caught >> (signal.SIGHUP - 1) & 1)


def _signal(pid: int, state: Path) -> ReloadResult:
    began = time.monotonic()
    if not _handles_sighup(pid):
        raise ZmsdError(f"process {pid} is not a zmsd that serves, and SIGHUP would end it: correct --pid")
    try:
        os.kill(pid, signal.SIGHUP)
        while time.monotonic() - began < _TIMEOUT_SECONDS:
            result = read_result(state)
            # A reload that was running at the signal may have read the files before they were changed.
            if result is not None and result.pid == pid and result.began >= began:
                return result
            time.sleep(_INTERVAL_SECONDS)
            os.kill(pid, 0)
    except ProcessLookupError as error:
        raise ZmsdError(f"no process {pid}, it has ended or --pid is wrong: see the log of zmsd") from error
    except OSError as error:
        raise ZmsdError(f"process {pid}: {reason_of(error)}") from error
    raise ZmsdError(f"process {pid} did not end its reload within {_TIMEOUT_SECONDS:.0f} s: see its log")
