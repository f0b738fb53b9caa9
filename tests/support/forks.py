"""Start zmsd processes as forks of a process that has zmsd's modules loaded.

The tests start about a thousand zmsd processes, and most of them need less processor time for their work than for
loading the modules. A fork runs ``zmsd.cli.main`` as ``python -m zmsd`` does, with a process session, a directory, an
environment and files of its own.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_MAX_REQUEST_BYTES = 1 << 20
OF_UNIT = {"MALLOC_ARENA_MAX": "1"}
"""What the unit sets for the process (``Environment=``), read when the process starts."""


class Fork:
    """One process, with the methods of subprocess.Popen that tests use."""

    def __init__(self, server: ForkServer, arguments: Sequence[str], pid: int) -> None:
        self.args = ["zmsd", *arguments]
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""
        if self.returncode is None:
            self.returncode = self._server.ask({"wait": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process ends, and return the exit status. Raises subprocess.TimeoutExpired."""
        if self.poll() is None:
            process = os.pidfd_open(self.pid)
            try:
                ended = select.poll()  # select.select takes no descriptor above 1023
                ended.register(process, select.POLLIN)
                ended.poll(None if timeout is None else timeout * 1000)
            finally:
                os.close(process)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        # Until ``poll`` has its exit status, a process that has ended keeps its number.
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that forks, at the other end of a socket. Thread-safe."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(other.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **OF_UNIT},
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
            )

    def start(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: int, stderr: int) -> Fork:
        """Start ``zmsd`` with ``arguments``; ``stdout`` and ``stderr`` are file descriptors."""
        request = {"arguments": list(arguments), "cwd": str(cwd), "environment": dict(env)}
        with open(os.devnull) as stdin:
            return Fork(self, arguments, self.ask(request, stdin.fileno(), stdout, stderr))

    def ask(self, request: Mapping[str, Any], *files: int) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            return json.loads(self._socket.recv(_MAX_REQUEST_BYTES))


@cache
def fork_server() -> ForkServer:
    """Return the fork server of this process, which ends with this process."""
    return ForkServer()


def _serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Answer requests. Return None at the end, and in each fork the request that it must fulfil, and its files."""
    while True:
        message, files, _, _ = socket.recv_fds(connection, _MAX_REQUEST_BYTES, 3)
        if not message:
            return None
        request = json.loads(message)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return request, files
            for file in files:
                os.close(file)
        connection.send(json.dumps(answer).encode())


def _main() -> None:
    package = importlib.import_module("zmsd")
    for module in pkgutil.walk_packages(package.__path__, "zmsd."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        given = _serve(connection)
    if given is None:
        return
    request, files = given
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["zmsd", *request["arguments"]]
    importlib.import_module("zmsd.cli").main()


if __name__ == "__main__":
    _main()
