"""README's section "On a VM with systemd", command by command, until a real zero-cache shows MongoDB's rows.

On Debian 12 with the package, on Debian 13 with ``make install``. ``make systemd`` runs this after booted.py. The
machine has no network beyond loopback, so zero-cache reaches it over a socket in its file system.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Zero
from tests.support.machine import Machine, missing
from tests.support.node import workspace
from tests.support.postgres import Postgres
from tests.support.wait import wait_until
from tests.support.zero import ZeroCache
from tests.systemd.booted import build, evaluate, journal, start_mongod, status
from zmsd.demo.mongod import find_binary

ROOT = Path(__file__).resolve().parents[2]
REASON = missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no machine can be booted: {REASON}")

README = (ROOT / "README.rst").read_text().partition("On a VM with systemd\n")[2]
PACKAGE, SOURCE = (
    [line.partition("#")[0].strip() for line in block.splitlines()]
    for block in re.findall(r"::\n\n((?:    .+\n)+)", README)[:2]
)
"""The commands for Debian 12, and those that replace the first of them elsewhere."""
TABLES = {
    name: {**spec, "tableName": name}
    for name, spec in json.loads((ROOT / "etc/schema.json").read_text())["tables"].items()
}
SOCKET = "/srv/relay"
RELAY = f"""
import asyncio

async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()

async def serve(reader, writer):
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", 3000)
    await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer), return_exceptions=True)

async def main():
    await (await asyncio.start_unix_server(serve, "{SOCKET}")).serve_forever()

asyncio.run(main())
"""


class Relay:
    """A port of this machine that leads to port 3000 of another one."""

    def __init__(self, machine: Machine) -> None:
        machine.run("systemd-run", "--unit=relay", "/usr/bin/python3", "-c", RELAY)
        self._path = str(machine.root / SOCKET.lstrip("/"))
        wait_until(Path(self._path).exists, "the relay listens", 10)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.socket(socket.AF_UNIX)
            there.connect(self._path)
            for pair in ((here, there), (there, here)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def wheels(directory: Path) -> None:
    """Download what pip needs on Debian 13 (Python 3.13) to install zmsd and to make its manual pages."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--dest",
        str(directory),
    ]
    only = ["--only-binary=:all:", "--python-version=3.13", "--constraint", str(ROOT / "tests/constraints.txt")]
    names = ["pymongo", "simple-websocket", "wsproto", "PyYAML", "docutils", "setuptools"]
    subprocess.run([*command, *only, *names], check=True, timeout=300)


@pytest.fixture(scope="module", params=["bookworm", "trixie"], name="machine")
def _machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp(request.param)
    packages = directory / "packages"
    packages.mkdir()
    if request.param == "bookworm":
        build(packages / "dist")
    else:
        wheels(packages)
        subprocess.run(
            [sys.executable, ROOT / "packaging/dist.py", "--out", directory], check=True, capture_output=True
        )
        with tarfile.open(next(directory.glob("*.tar.gz"))) as archive:
            archive.extractall(directory, filter="data")
        shutil.move(
            next(path for path in directory.iterdir() if path.name.startswith("zmsd-") and path.is_dir()),
            packages / "zmsd",
        )
    binds = ((packages, "/mnt/packages"), (find_binary().parent, "/mnt/mongod"))
    with Machine(request.param, directory / "machine", binds) as booted:
        yield booted
        print(booted.run("journalctl", "--unit=zmsd", "--no-pager", "--output=cat", check=False).stdout)


def walk(machine: Machine) -> None:
    """Follow README: install, edit once, enable."""
    install, edit, enable = PACKAGE
    assert edit.startswith("editor "), edit
    if machine.run("test", "-d", "/mnt/packages/zmsd", check=False).returncode == 0:
        machine.run("cp", "-r", "/mnt/packages/zmsd", "/root/source")
        offline = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/mnt/packages"
        machine.run("sh", "-ec", f"cd /root/source && {offline} {SOURCE[-1]}", timeout=300)
    else:
        machine.run("sh", "-ec", f"cd /mnt/packages && {install}", timeout=120)
    machine.run("sed", "-i", "s|/chat?|/company?|", edit.partition(" ")[2])
    machine.run("sh", "-ec", enable)


def test_readme_leads_to_a_real_zero_cache_with_rows(machine: Machine, tmp_path: Path) -> None:
    start_mongod(machine)
    walk(machine)
    member = "{'_id': 0, 'host': '127.0.0.1:27017'}"
    evaluate(machine, f"client.admin.command('replSetInitiate', {{'_id': 'rs0', 'members': [{member}]}})")
    wait_until(lambda: status(machine).startswith("serving 3 collections"), "zmsd serves", 60)
    evaluate(machine, "client.company.rooms.insert_one({'_id': 'a', 'name': 'copied'})")
    assert "no errors" in machine.run("zmsd", "check", check=False).stdout
    with contextlib.ExitStack() as stack:
        relay = Relay(machine)
        stack.callback(relay.close)
        postgres = stack.enter_context(Postgres())
        app = Zero(workspace(), tmp_path, TABLES, stack)
        source = f"ws://127.0.0.1:{relay.port}/changes/v0/stream"
        app.cache = ZeroCache(
            workspace(), tmp_path / "zero", source, postgres.create("zero"), query_url=app.api.query_url, restart=True
        )
        stack.callback(app.cache.kill)
        app.cache.start()
        client = app.client()
        rows = [{"id": "a", "name": "copied", "topic": None}]
        client.wait_rows("room", rows, 120)
        evaluate(machine, "client.company.rooms.insert_one({'_id': 'b', 'name': 'streamed', 'topic': 'x'})")
        client.wait_rows("room", [*rows, {"id": "b", "name": "streamed", "topic": "x"}], 60)


def test_verify_unit_reports_equal_rows(machine: Machine) -> None:
    """README's command, and the service that its timer starts."""
    assert "systemctl enable --now zmsd-verify.timer" in README
    machine.run("systemctl", "enable", "--now", "zmsd-verify.timer")
    assert machine.property("zmsd-verify.timer", "ActiveState") == "active"
    machine.run("systemctl", "start", "zmsd-verify")
    assert "room: 2 rows, 2 equal, no difference" in journal(machine, unit="zmsd-verify")
    assert machine.property("zmsd-verify", "Result") == "success"


def test_reload_ends_with_its_result(machine: Machine) -> None:
    """With systemd 254 and later by notify-reload, which systemctl waits for."""
    version = int(machine.run("systemctl", "--version").stdout.split()[1])
    expected = "notify-reload" if version >= 254 else "notify"
    assert machine.property("zmsd", "Type") == expected
    machine.run("systemctl", "reload", "zmsd")
    assert "reloaded tables=5 " in journal(machine)
    machine.run("sed", "-i", "s|^log:|nonsense: 1\\nlog:|", "/etc/zmsd/zmsd.yaml")
    assert machine.run("systemctl", "reload", "zmsd", check=False).returncode != 0
    wait_until(lambda: status(machine).startswith("serving"), "zmsd still serves", 30)
