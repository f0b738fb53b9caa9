"""Run zmsd as a real process: write its configuration, start it, request pages, kill it, and start it again."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

from tests.support.forks import OF_UNIT, Fork, fork_server
from tests.support.ports import free_port
from tests.support.wait import FACTOR, wait_until

LONG = os.environ.get("ZMSD_TEST_LONG") == "1"
ROOT = Path(__file__).resolve().parents[2]
SCOPE = os.environ.get("ZMSD_TEST_SCOPE")
"""``feed.scope`` of every daemon of which a test does not choose it (``make compat-mongodb`` runs with both)."""


class ZmsdProcess:
    """``zmsd run``, its files in ``directory``; ``start`` it as often as the test wants, on the same port and store.

    At the end of the ``with`` its stderr is printed, for pytest to show, and a traceback in it is an error.
    """

    forked = not LONG
    """Whether it starts as a fork of a process that has loaded zmsd's modules."""

    def __init__(
        self,
        directory: Path,
        uri: str,
        schema: Any,
        mappings: Any = None,
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``settings`` are laid over what is needed anyway: {section: {key: value}}.

        ``arguments`` are those of the command, if not ``run --config`` with the file that is written here.
        ``tls`` is what to ask it with, where it serves TLS.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.config_file = directory / "zmsd.yaml"
        self.stderr_file = directory / "stderr"
        self.port = free_port()
        self.environment = dict(environment or {})
        self.tls = tls
        self._arguments = ["run", "--config", str(self.config_file)] if arguments is None else [*arguments]
        self._process: subprocess.Popen[bytes] | Fork | None = None
        self._config: dict[str, dict[str, Any]] = {
            "mongodb": {"uri": uri},
            "schema": {"file": "schema.json"},
            "server": {"host": "127.0.0.1", "port": self.port},
            "watermarks": {"path": "watermarks.db"},
            **({"feed": {"scope": SCOPE}} if SCOPE else {}),
        }
        self.write(schema, mappings, settings)

    def __enter__(self) -> ZmsdProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.kill()
        print(f"--- {self.stderr_file}\n{self.stderr()}")
        if kind is None:
            assert "Traceback" not in self.stderr(), self.stderr()

    def write(
        self, schema: Any = None, mappings: Any = None, settings: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Write the files that are given, and leave the others. Takes effect with ``start`` or SIGHUP."""
        if schema is not None:
            (self.directory / "schema.json").write_text(json.dumps(schema, indent=1))
        if mappings is not None:
            (self.directory / "mappings.json").write_text(json.dumps(mappings, indent=1))
            self._config["mappings"] = {"file": "mappings.json"}
        for section, values in (settings or {}).items():
            self._config[section] = {**self._config.get(section, {}), **values}
        self.config_file.write_text(yaml.safe_dump(self._config, sort_keys=False))

    def start(self, *, ready: bool = True, timeout: float = 30) -> ZmsdProcess:
        """Start the process, and wait until the feed runs; without ``ready``, until it answers requests."""
        self.launch()
        wait_until(self.ready if ready else self.healthy, "zmsd is ready" if ready else "zmsd answers", timeout)
        return self

    def launch(self) -> None:
        """Start the process without waiting."""
        assert self._process is None or self._process.poll() is not None, "it runs"
        with self.stderr_file.open("ab") as stderr:
            self._process = start_zmsd(
                self._arguments, self.directory, self.environment, stderr, stderr, forked=self.forked
            )

    def stop(self, timeout: float = 30) -> int:
        """Send SIGTERM, as systemd does, and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait_exit(timeout)

    def wait_exit(self, timeout: float = 30) -> int:
        """Wait until the process ends by itself, and return the exit status. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(timeout * FACTOR)

    def kill(self) -> None:
        """Kill the process (``kill -9``)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stderr(self) -> str:
        return self.stderr_file.read_text(errors="replace") if self.stderr_file.exists() else ""

    def wait_log(self, pattern: str, timeout: float = 30, *, count: int = 1) -> list[str]:
        """Wait until ``count`` lines of the log match, and return them."""
        wait_until(lambda: len(self.log(pattern)) >= count, f"the log has {count} × {pattern!r}", timeout)
        return self.log(pattern)

    def log(self, pattern: str) -> list[str]:
        """Return the lines of the log that match."""
        return [line for line in self.stderr().splitlines() if re.search(pattern, line)]

    def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> tuple[int, str]:
        """Return status and body of an HTTP request. Raises OSError."""
        seconds = 10 * FACTOR
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        if self.tls is not None:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=seconds, context=self.tls)
        with contextlib.closing(connection):
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def ready(self) -> bool:
        """Return whether /readyz answers 200. Raises AssertionError if the process has ended."""
        return self._answers("/readyz") == 200

    def healthy(self) -> bool:
        return self._answers("/healthz") == 200

    def _answers(self, path: str) -> int:
        assert self.running(), f"zmsd ended:\n{self.stderr()}"
        try:
            return self.get(path)[0]
        except (OSError, http.client.HTTPException):
            return 0


def run_zmsd(
    *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run ``zmsd`` with ``arguments`` to its end. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start_zmsd(arguments, cwd, environment or {}, stdout, stderr)
        try:
            code = process.wait(timeout * FACTOR)
        except BaseException:
            process.kill()
            process.wait()
            raise
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(process.args, code, *texts)


# What Python reads when it starts.
_OF_PYTHON = re.compile(r"PYTHON|LD_|LC_|LANG")


def start_zmsd(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes],
    *,
    forked: bool = not LONG,
) -> subprocess.Popen[bytes] | Fork:
    """Start ``zmsd`` in a session of its own: as ``python -m zmsd`` in ``make faults``, and otherwise as a fork."""
    env = _environment(environment)
    if forked and not any(_OF_PYTHON.match(name) for name in environment):
        return fork_server().start(arguments, cwd, env, stdout.fileno(), stderr.fileno())
    return subprocess.Popen(
        [sys.executable, "-m", "zmsd", *arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


# The variables that zmsd reads must come from the test.
_OURS = re.compile(
    r"MONGODB_|SCHEMA_|TABLE_MAPPINGS_|PORT$|WATERMARK_|NATS_|NOTIFY_SOCKET|WATCHDOG_|JOURNAL_STREAM|CREDENTIALS_|STATE_DIRECTORY"
)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **OF_UNIT, **extra}
