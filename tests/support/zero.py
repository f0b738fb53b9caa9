"""The real zero-cache as a process that tests start, kill and restart."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.support.node import Workspace
from tests.support.ports import free_ports
from tests.support.wait import FACTOR, wait_until

ENVIRONMENT_FILE = Path(__file__).parents[2] / "etc" / "zero-cache.env"


def environment_file(path: Path = ENVIRONMENT_FILE) -> dict[str, str]:
    """Return the variables of a file as systemd's EnvironmentFile= reads them (without quotes)."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith(("#", ";")))


class ZeroCache:
    """One zero-cache with its replica in ``directory``; ``start`` it as often as the test wants."""

    def __init__(
        self,
        workspace: Workspace,
        directory: Path,
        source: str,
        database: str,
        *,
        app_id: str = "zero",
        shard: int = 0,
        query_url: str | None = None,
        mutate_url: str | None = None,
        restart: bool = False,
        one_process: bool = False,
        file: Path = ENVIRONMENT_FILE,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """:param restart: start it again when it exits for a new initial sync, as systemd does
        :param one_process: run its workers in one process, of which the start needs half the processor time
        :param file: its EnvironmentFile, without the URLs that are None
        :param env: overrides the file
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_ports(3)  # clients, the change streamer, Litestream's metrics
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = database
        self.replica = directory / f"{app_id}_{shard}.db"
        self.log_file = directory / f"{app_id}_{shard}.log"
        self._workspace = workspace
        self.restart = restart
        self._one_process = one_process
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        # All variables of the file, with the values of this machine instead of a VM's.
        self.environment = {
            "ZERO_NUM_SYNC_WORKERS": "1",
            **environment_file(file),
            "ZERO_UPSTREAM_DB": source,
            "ZERO_CVR_DB": database,
            "ZERO_CHANGE_DB": database,
            "ZERO_APP_ID": app_id,
            "ZERO_SHARD_NUM": str(shard),
            "ZERO_PORT": str(self.port),
            "ZERO_REPLICA_FILE": str(self.replica),
            "ZERO_ENABLE_TELEMETRY": "false",
            "ZERO_LOG_LEVEL": "info",
        }
        for name, url in (("ZERO_QUERY_URL", query_url), ("ZERO_MUTATE_URL", mutate_url)):
            known = self.environment.pop(name, None)
            if known and url:
                self.environment[name] = url
        self.environment.update(env or {})

    def __enter__(self) -> ZeroCache:
        return self.start()

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.kill()

    def start(self, *, wait: bool = True) -> ZeroCache:
        self._log = self.log_file.open("ab")
        program = "scripts/zero_cache.mjs" if self._one_process else "node_modules/.bin/zero-cache"
        command = [self._workspace.path / program]
        self._process = self._workspace.popen(command, env=self.environment, stdout=self._log, stderr=subprocess.STDOUT)
        if wait:
            self.wait_ready()
        return self

    def move_to(self, source: str) -> None:
        """Use another change source from the next start on."""
        self.environment["ZERO_UPSTREAM_DB"] = source

    def wait_ready(self, timeout: float = 180) -> None:
        def ready() -> bool:
            self.check()
            try:
                # Not /keepalive: older versions exit once a client that requested it stops requesting it.
                with urllib.request.urlopen(self.url, timeout=5) as answer:
                    return bool(answer.status == 200)
            except (OSError, urllib.error.URLError):
                return False

        wait_until(ready, f"zero-cache is ready, see {self.log_file}", timeout)

    def exit_code(self) -> int | None:
        """Return the exit status; None while the process runs."""
        assert self._process is not None
        return self._process.poll()

    def check(self) -> None:
        """Raise AssertionError if the process has ended by itself."""
        if self.restart and self._process is not None and self.exit_code() == 14:
            self.kill()
            self.start(wait=False)
        if self._process is not None and self.exit_code() is not None:
            reasons = [line[:500] for line in self.log().splitlines() if "exiting with error" in line]
            raise AssertionError(f"zero-cache exited with {self.exit_code()}, see {self.log_file}: {reasons[-1:]}")

    def wait_exit(self, timeout: float = 30) -> int:
        assert self._process is not None
        code = self._process.wait(timeout * FACTOR)
        self.kill()  # a worker may outlive it
        return code

    def kill(self) -> None:
        """Kill zero-cache with all its processes (``kill -9``)."""
        if self._process is None:
            return
        kill_zero_cache(self.replica)
        self._process.wait()
        self._process = None
        if self._log is not None:
            self._log.close()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""


def kill_zero_cache(replica: Path) -> None:
    """Kill the zero-cache with this replica file (``kill -9``). Its workers have sessions of their own."""

    def pids() -> list[int]:
        mine = f"ZERO_REPLICA_FILE={replica}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                # The environment of a process that has ended and was not waited for reads as empty.
                with contextlib.suppress(OSError):
                    if mine in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def gone() -> bool:
        left = pids()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(gone, "zero-cache's processes are gone", 10)
