"""``zmsd demo`` prints an initial sync and changes, and leaves nothing behind however it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.client import ChangeSourceClient
from tests.support.daemon import ROOT, run_zmsd
from tests.support.mongod import ReplicaSet
from tests.support.ports import free_port
from tests.support.wait import FACTOR, wait_until
from zmsd.demo.mongod import Mongod


class Demo:
    def __init__(self, directory: Path, *arguments: str) -> None:
        self.port = free_port()
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zmsd", "demo", "--port", str(self.port), *arguments],
                cwd=directory,
                env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "TMPDIR": str(self.temporary)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output.read_text(), f"the demo says {text!r}", 60)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(30 * FACTOR)


@contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[Demo]:
    process = Demo(directory, *arguments)
    try:
        yield process
    finally:
        left = process.processes() if process.process.poll() is None else []
        for one in [*left, process.process]:
            one.kill()
        process.process.wait()
        print(process.output.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_demo_ended_by_a_signal_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with demo(tmp_path) as shown:
        shown.wait_for("initial sync complete at watermark")
        shown.wait_for("    + ")
        with ChangeSourceClient(shown.port) as client:  # as a zero-cache that is pointed at the demo
            client.wait_initial()
            assert client.rows("userMessage")
        (mongod,) = shown.processes()
        assert shown.end(number) == 0
        assert not mongod.is_running()
        assert not list(shown.temporary.iterdir())


def test_demo_on_own_mongodb_ends_and_drops_its_collections(replica_set: ReplicaSet, tmp_path: Path) -> None:
    name = f"demo_{tmp_path.parent.name}_{replica_set.nodes[0].port}"[:60].replace("-", "_")
    uri = replica_set.uri(name)
    seconds = str(round(1 + 2 * FACTOR))  # on a busy machine its zmsd takes a while to start
    done = run_zmsd("demo", "--uri", uri, "--port", str(free_port()), "--seconds", seconds, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "    + " in done.stdout
    with replica_set.client() as client:
        assert client[name].list_collection_names() == []
        client[name].users.insert_one({})
        again = run_zmsd("demo", "--uri", uri, "--port", str(free_port()), "--seconds", "3", cwd=tmp_path)
        assert again.returncode == 1
        assert f"database {name} has collections users already" in again.stderr
        assert client[name].users.count_documents({}) == 1
        client.drop_database(name)


def test_demo_fails_before_it_starts_a_mongod_when_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_zmsd("demo", "--port", str(port), "--seconds", "1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1:{port}: the port is in use by another process: "
        'choose another port with --port, such as make demo ARGS="--port 3001"\n'
    )


def test_demo_on_a_standalone_mongod_fails_before_it_writes(tmp_path: Path) -> None:
    mongod = Mongod(tmp_path / "mongod", standalone=True)
    try:
        mongod.start()
        done = run_zmsd("demo", "--uri", f"mongodb://{mongod.address}/demo", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "rs.initiate()" in done.stderr
        assert "filling" not in done.stdout
    finally:
        mongod.kill()
