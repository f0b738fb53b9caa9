"""How a reload of the daemon ended, in a file that ``zmsd reload`` waits for."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zmsd.errors import reason_of
from zmsd.log import kv

log = logging.getLogger(__name__)

_NAME = "last-reload.json"


@dataclass(frozen=True)
class ReloadResult:
    """``began`` is in seconds of CLOCK_MONOTONIC, which all processes of a machine share."""

    pid: int
    began: float
    faults: tuple[str, ...] = ()
    """Configuration errors that refused the reload; () if it was done."""
    restart: tuple[str, ...] = ()
    """Settings whose changes need a restart."""
    credentials: tuple[str, ...] = ()
    """Credentials in use, which systemd reads at the start of the unit only."""
    summary: str = ""
    """What has changed, as in the log."""


class ReloadRecorder:
    """Write the daemon's results into ``directory``. Main thread only."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / _NAME
        self._began = 0.0

    def clear(self) -> None:
        """Remove the result of an earlier process, which may have had the same process id."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    def begin(self) -> None:
        """Note the time at which a reload begins to read the files."""
        self._began = time.monotonic()

    def end(self, **result: Any) -> None:
        """Write the result; its fields are those of ReloadResult. Failing to write is logged."""
        new = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(asdict(ReloadResult(os.getpid(), self._began, **result))))
            new.replace(self._file)
        except OSError as error:
            log.warning(kv("result of the reload not written", error=reason_of(error)))


def read_result(directory: Path) -> ReloadResult | None:
    """Return the newest result; None where there is none. Raises OSError where it cannot be read."""
    try:
        data = json.loads((directory / _NAME).read_text())
        lists = {key: tuple(map(str, data[key])) for key in ("faults", "restart", "credentials")}
        return ReloadResult(int(data["pid"]), float(data["began"]), summary=str(data["summary"]), **lists)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
