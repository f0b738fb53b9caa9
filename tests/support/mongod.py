"""Replica sets that tests start, kill and restart, with the mongod of the demo."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from bson import Timestamp
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import AutoReconnect, OperationFailure
from pymongo.write_concern import WriteConcern

from tests.support.ports import free_port
from tests.support.wait import wait_until
from zmsd.demo import mongod as demo
from zmsd.demo.mongod import Mongod, initiate, wait_for_primary

Client = MongoClient[dict[str, Any]]

ADMIN = ("admin", "admin-password")

# An election within about a second, instead of ten.
_SETTINGS = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200}
_OPTIONS = ("--setParameter", "enableTestCommands=1")


@cache
def _asked_version(binary: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)


def missing_library() -> str | None:
    """Return which system library mongod lacks and what installs it; None if mongod can be run."""
    done = _asked_version(demo.find_binary())
    return None if done.returncode == 0 else demo.explain(done.returncode, done.stderr)


def version_of(binary: Path) -> tuple[int, ...]:
    """Return the version of a mongod that can be run."""
    first = _asked_version(binary).stdout.splitlines()[0]
    return tuple(map(int, first.rpartition("v")[2].split(".")))


class ReplicaSet:
    """``nodes`` mongods on one machine. Each of ``self.nodes`` can be stopped, killed, signalled and started again."""

    def __init__(
        self,
        directory: Path,
        nodes: int = 1,
        *,
        arbiters: int = 0,
        oplog_mb: int | None = None,
        auth: bool = False,
        arguments: Sequence[str] = (),
        binary: Path | None = None,
    ) -> None:
        """``arbiters``: so many of the nodes, the last ones, are arbiters.

        ``oplog_mb``: as little as 1, for tests in which it rolls over. ``auth``: users are needed, ADMIN is one.
        ``binary``: another mongod than that of all tests."""
        self._auth = auth
        self._arbiters = arbiters
        self._tiny = oplog_mb is not None
        options = [*_OPTIONS, *arguments]
        if oplog_mb is not None:
            # Entries newer than the last checkpoint are never truncated: make a checkpoint every second.
            options += ["--oplogSize", str(oplog_mb), "--syncdelay", "1"]
        if auth:
            directory.mkdir(parents=True, exist_ok=True)
            key = directory / "key"
            key.write_text(secrets.token_hex(32))
            key.chmod(0o600)
            options += ["--keyFile", str(key)]
        self.nodes = [Mongod(directory / f"node{number}", options) for number in range(nodes)]
        for node in self.nodes:
            node.port = free_port()
        for node in self.nodes:
            node.binary = binary

    def __enter__(self) -> ReplicaSet:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        initiate(self.nodes, _SETTINGS, arbiters=self._arbiters)
        if self._auth:
            # The first user may be created without a user, from this machine.
            with self.primary().client() as client:
                client.admin.command("createUser", ADMIN[0], pwd=ADMIN[1], roles=["root"])
        if self._tiny:
            # The thread that truncates the oplog looks for it only when mongod starts, and then there was none.
            for node in self.nodes:
                node.stop()
            for node in self.nodes:
                node.start()
            self.primary()

    def close(self) -> None:
        for node in self.nodes:
            node.kill()

    def uri(self, database: str = "", user: tuple[str, str] | None = None) -> str:
        """Return the connection string of the set, for ``user`` (name and password) or without a user."""
        hosts = ",".join(node.address for node in self.nodes)
        if user is None:
            return f"mongodb://{hosts}/{database}?replicaSet=rs0"
        return f"mongodb://{user[0]}:{user[1]}@{hosts}/{database}?replicaSet=rs0&authSource=admin"

    def client(self, **options: Any) -> Client:
        """Return a client of the set, as ADMIN if there are users."""
        return MongoClient(self.uri(user=ADMIN if self._auth else None), **options)

    def primary(self, timeout: float = 60) -> Mongod:
        """Wait for a primary, and return its node."""
        return wait_for_primary(self.nodes, timeout)

    def secondaries(self) -> list[Mongod]:
        """Return the running nodes that are not primary."""
        primary = self.primary()
        return [node for node in self.nodes if node is not primary and node.pid]

    def step_down(self) -> None:
        """Make another node primary, as for maintenance."""
        # AutoReconnect: it may close all connections.
        with self.primary().client() as client, contextlib.suppress(AutoReconnect):
            client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=3, force=True)

    def replace_binary(self, node: Mongod, binary: Path) -> None:
        """Shut a node down as an administrator does, and start it with another version of mongod."""
        with node.client() as client, contextlib.suppress(AutoReconnect):
            client.admin.command("shutdown", timeoutSecs=5, force=True)
        wait_until(lambda: node.pid is None, "mongod has ended", 60)
        node.binary = binary
        node.start(timeout=60)
        self.wait_all_healthy()

    def oldest_change(self) -> Timestamp:
        """Return the clusterTime at which the oplog of the primary begins."""
        with self.primary().client() as client:
            return client.local["oplog.rs"].find_one(sort=[("$natural", 1)])["ts"]

    def roll_oplog(self, past: Timestamp, timeout: float = 60) -> None:
        """Write until the oplog, which must be small, begins after ``past``."""
        filler = "x" * 10_000
        with self.primary().client() as client:
            junk = client["zmsd_filler"].get_collection("filler", write_concern=WriteConcern(w=1))

            def rolled() -> bool:
                junk.insert_many([{"filler": filler} for _ in range(100)])
                return self.oldest_change() > past

            wait_until(rolled, f"the oplog begins after {past}", timeout)

    def take_large_transactions(self) -> None:
        """Give the primary 4 GB of cache, which a transaction of 200,000 changes with images needs."""
        with self.primary().client() as client:
            client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig="cache_size=4G")

    @contextlib.contextmanager
    def failing(
        self, *commands: str, times: int | None = None, probability: float | None = None, **data: Any
    ) -> Iterator[None]:
        """Let zmsd's commands fail on the primary (failCommand): with ``errorCode``, ``closeConnection`` and so on.

        ``times``: only so often; ``probability``: now and then; else always, until the end of the ``with``.
        """
        data = {"failCommands": list(commands), "appName": "zmsd", **data}
        mode: Any = "alwaysOn" if probability is None else {"activationProbability": probability}
        mode = mode if times is None else {"times": times}
        with self.primary().client() as client:
            client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
            try:
                yield
            finally:
                client.admin.command("configureFailPoint", "failCommand", mode="off")

    def failed(self) -> int:
        """Return how many commands have failed that way since mongod was started."""
        with self.primary().client() as client:
            reply = client.admin.command("getParameter", 1, **{"failpoint.failCommand": 1})
        return int(reply["failpoint.failCommand"].get("timesEntered", 0))

    def now(self) -> Timestamp:
        """Return the operationTime: everything written so far is at or before it."""
        with self.primary().client() as client:
            return client.admin.command("ping")["operationTime"]

    def wait_all_healthy(self, timeout: float = 60) -> None:
        """Wait until every node is primary or secondary."""

        def healthy() -> bool:
            with self.primary().client() as client:
                members = client.admin.command("replSetGetStatus")["members"]
            return all(member["state"] in (1, 2) for member in members)

        wait_until(healthy, "every node is primary or secondary", timeout)


def wait_history_gone(database: Database[dict[str, Any]], since: Timestamp) -> None:
    """Wait until documents can no longer be read at that time."""

    def gone() -> bool:
        concern = {"level": "snapshot", "atClusterTime": since}
        try:
            database.command({"find": "a", "limit": 1, "readConcern": concern})
        except OperationFailure as error:
            return error.code == 239
        return False

    wait_until(gone, "the history is gone", 60)
