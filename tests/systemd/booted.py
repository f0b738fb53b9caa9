"""The package and the unit on a bare Debian 12 with its own booted systemd, in the order of an administrator's day.

``make systemd`` runs this: it needs root, debootstrap and systemd-container. The tests of this module share one machine
and build on one another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.machine import Machine, missing
from tests.support.wait import FACTOR, wait_until
from zmsd.demo.mongod import find_binary

ROOT = Path(__file__).resolve().parents[2]
REASON = missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no machine can be booted: {REASON}")

URI = "mongodb://127.0.0.1:27017/shop?replicaSet=rs0&serverSelectionTimeoutMS=2000"
SCHEMA = {"note": {"columns": {"id": {"type": "string"}, "text": {"type": "string"}}, "primaryKey": ["id"]}}
MAPPINGS = {"note": {"collection": "notes", "fields": {"id": "_id", "text": "text"}}}
SETTINGS = {
    "mongodb": {"uri_file": "mongodb_uri"},
    "schema": {"file": "schema.json"},
    "mappings": {"file": "mappings.json"},
    "server": {"host": "0.0.0.0", "token_file": "token"},
}
FILE = "/etc/zmsd/zmsd.yaml"


def build(directory: Path, suffix: str = "") -> Path:
    """Return the package that ``make deb`` makes."""
    command = [sys.executable, str(ROOT / "packaging/deb.py"), "--out", str(directory), "--suffix", suffix]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    return Path(done.stdout.split()[-1])


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the packages of this version and of one after it: zmsd.deb and newer.deb."""
    directory = tmp_path_factory.mktemp("packages")
    build(directory).rename(directory / "zmsd.deb")
    build(directory, "+1").rename(directory / "newer.deb")
    return directory


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("machine")
    binds = ((packages, "/mnt/packages"), (find_binary().parent, "/mnt/mongod"))
    with Machine("bookworm", directory, binds) as booted:
        yield booted
        print(booted.run("journalctl", "--unit=zmsd", "--output=short-monotonic", "--no-pager", check=False).stdout)


def status(machine: Machine) -> str:
    return machine.property("zmsd", "StatusText")


def serving(machine: Machine) -> bool:
    return status(machine).startswith("serving 1 collection")


def journal(machine: Machine, *arguments: str, unit: str = "zmsd") -> str:
    return machine.run("journalctl", f"--unit={unit}", "--output=cat", "--no-pager", *arguments).stdout


def restarts(machine: Machine, unit: str = "zmsd") -> int:
    return int(machine.property(unit, "NRestarts"))


def configure(machine: Machine, file: str = FILE, **changes: object) -> None:
    machine.write(file, yaml.safe_dump({**SETTINGS, **changes}))


def evaluate(machine: Machine, code: str) -> str:
    """Run Python code on the machine's MongoDB, as ``client``."""
    head = "from pymongo import MongoClient; client = MongoClient('mongodb://127.0.0.1:27017', directConnection=True)\n"
    return machine.run("/opt/zmsd/bin/python3", "-c", head + code).stdout


def start_mongod(machine: Machine) -> None:
    (machine.root / "var/lib/mongodb").mkdir(exist_ok=True)
    options = "--dbpath /var/lib/mongodb --replSet rs0 --bind_ip 127.0.0.1 --wiredTigerCacheSizeGB 0.25"
    machine.run("systemd-run", "--unit=mongod", "/mnt/mongod/mongod", *options.split())


def test_installation_enables_nothing_and_names_the_next_command(machine: Machine) -> None:
    done = machine.run("apt-get", "install", "--yes", "/mnt/packages/zmsd.deb", timeout=120)
    assert "zmsd check && systemctl enable --now zmsd" in done.stdout
    assert machine.run("systemctl", "is-enabled", "zmsd", check=False).stdout.strip() == "disabled"
    assert machine.run("systemctl", "is-active", "zmsd", check=False).stdout.strip() == "inactive"
    assert machine.run("zmsd", "--version").stdout.startswith("zmsd ")
    assert machine.run("stat", "--format=%a %U", "/etc/credstore").stdout.strip() == "700 root"
    assert (machine.root / "usr/share/man/man8/zmsd.8.gz").exists()
    assert "zmsd" in machine.run("getent", "passwd", "zmsd").stdout


def test_unit_is_clean_and_confined(machine: Machine) -> None:
    verify = machine.run("systemd-analyze", "verify", "--man=no", "zmsd.service", "zmsd@one.service", check=False)
    assert (verify.returncode, verify.stdout + verify.stderr) == (0, "")
    machine.run("systemd-analyze", "security", "--threshold=12", "--no-pager", "zmsd.service")


def test_error_of_a_missing_credential_names_it(machine: Machine) -> None:
    machine.write("/etc/zmsd/schema.json", json.dumps(SCHEMA))
    machine.write("/etc/zmsd/mappings.json", json.dumps(MAPPINGS))
    configure(machine)
    done = machine.run("zmsd", "check", "--offline", check=False)
    assert done.returncode == 1
    assert "no credential mongodb_uri either" in done.stderr
    assert "/etc/credstore/zmsd.mongodb_uri" in done.stderr
    machine.run("systemctl", "start", "zmsd", check=False)
    assert "no credential mongodb_uri either" in journal(machine, "--priority=err")
    machine.run("systemctl", "stop", "zmsd")


def test_start_returns_while_mongodb_is_away(machine: Machine) -> None:
    machine.write("/etc/credstore/zmsd.mongodb_uri", URI, 0o600)
    machine.write("/etc/credstore/zmsd.token", "first-token", 0o600)
    begun = time.monotonic()
    machine.run("systemctl", "enable", "--now", "zmsd")
    assert time.monotonic() - begun < 20 * FACTOR
    assert machine.property("zmsd", "ActiveState") == "active"
    assert status(machine).startswith("not ready: ")
    assert "127.0.0.1:27017" in status(machine)


def test_daemon_serves_when_mongodb_comes(machine: Machine) -> None:
    start_mongod(machine)
    member = "{'_id': 0, 'host': '127.0.0.1:27017'}"
    evaluate(machine, f"client.admin.command('replSetInitiate', {{'_id': 'rs0', 'members': [{member}]}})")
    wait_until(lambda: serving(machine), "zmsd serves", 60)
    assert restarts(machine) == 0


def test_commands_of_root_use_the_credentials_and_state_of_the_unit(machine: Machine) -> None:
    evaluate(machine, "client.shop.notes.insert_one({'_id': 'a', 'text': 'hello'})")
    shown = machine.run("zmsd", "status").stdout
    assert "serving 1 collection" in shown
    checked = machine.run("zmsd", "check")
    assert "store: /var/lib/zmsd/watermarks.db" in checked.stdout
    tail = machine.run("timeout", "--signal=INT", "10", "zmsd", "tail", check=False)
    assert "create table note" in tail.stdout, tail.stderr
    assert "database shop" in machine.run("zmsd", "store", "show").stdout
    owners = machine.run("sh", "-c", "stat --format=%U /var/lib/private/zmsd/*").stdout.split()
    assert set(owners) == {"zmsd"}


def test_commands_need_only_what_they_use(machine: Machine) -> None:
    uri = machine.root / "etc/credstore/zmsd.mongodb_uri"
    running = machine.root / "etc/zmsd/mappings.json"
    uri.rename(uri.with_name("away"))
    running.rename(running.with_name("away"))
    try:
        assert "serving" in machine.run("zmsd", "status").stdout
        assert "database shop" in machine.run("zmsd", "store", "show").stdout
    finally:
        uri.with_name("away").rename(uri)
        running.with_name("away").rename(running)


def test_credentials_are_found_where_a_drop_in_loads_them(machine: Machine) -> None:
    machine.write("/etc/zmsd/elsewhere", URI, 0o600)
    uri = machine.root / "etc/credstore/zmsd.mongodb_uri"
    uri.rename(uri.with_name("away"))
    drop_in = "/etc/systemd/system/zmsd.service.d/uri.conf"
    machine.write(
        drop_in,
        "[Service]\nLoadCredential=\nLoadCredential=mongodb_uri:/etc/zmsd/elsewhere\nLoadCredential=token:zmsd.token\n",
    )
    machine.run("systemctl", "daemon-reload")
    try:
        assert "database shop" in machine.run("zmsd", "check").stdout
    finally:
        uri.with_name("away").rename(uri)
        (machine.root / drop_in.lstrip("/")).unlink()
        machine.run("systemctl", "daemon-reload")


def test_reload_of_good_files_succeeds(machine: Machine) -> None:
    two = SCHEMA | {"other": {"columns": {"id": {"type": "string"}}, "primaryKey": ["id"]}}
    machine.write("/etc/zmsd/schema.json", json.dumps(two))
    machine.run("systemctl", "reload", "zmsd")
    assert "reloaded tables=2 " in journal(machine)
    machine.write("/etc/zmsd/schema.json", json.dumps(SCHEMA))
    assert machine.run("zmsd", "reload").stdout.startswith("reloaded tables=1 ")


@pytest.mark.parametrize("wrong", ["settings", "document", "certificate"])
def test_reload_of_bad_files_fails_with_the_reason(wrong: str, machine: Machine) -> None:
    pid = machine.property("zmsd", "MainPID")
    if wrong == "settings":
        configure(machine, feed={"heartbeat": -1})
    elif wrong == "document":
        machine.write("/etc/zmsd/mappings.json", json.dumps({"nothing": {"collection": "x"}}))
    else:  # only the daemon looks at what may be a credential
        machine.write("/etc/zmsd/empty", "")
        configure(machine, server=SETTINGS["server"] | {"tls": {"cert": "empty", "key": "empty"}})  # type: ignore[operator]
    try:
        done = machine.run("systemctl", "reload", "zmsd", check=False)
        assert done.returncode != 0
        expected = {"settings": "feed.heartbeat: must be", "document": "mappings.json:1:2", "certificate": "server.tls"}
        assert expected[wrong] in journal(machine, "--priority=err", "--lines=5")
        assert expected[wrong] in machine.run("systemctl", "status", "zmsd").stdout
        wait_until(lambda: serving(machine), "zmsd serves what the reload before had published", 30)
        assert machine.property("zmsd", "MainPID") == pid
    finally:
        configure(machine)
        machine.write("/etc/zmsd/mappings.json", json.dumps(MAPPINGS))
    machine.run("systemctl", "reload", "zmsd")


def test_reload_reports_a_rotated_credential_that_needs_a_restart(machine: Machine) -> None:
    machine.write("/etc/credstore/zmsd.token", "second-token", 0o600)
    done = machine.run("zmsd", "reload")
    assert "credential token has changed since the start (/etc/credstore/zmsd.token)" in done.stdout
    assert "mongodb_uri" not in done.stdout
    machine.run("systemctl", "reload", "zmsd")
    assert "credentials stay until a restart" in journal(machine)
    assert "serving" in machine.run("zmsd", "status").stdout, "with the token of the running daemon"
    machine.run("systemctl", "restart", "zmsd")
    wait_until(lambda: serving(machine), "zmsd serves", 30)
    assert machine.run("zmsd", "reload").stdout.startswith("reloaded tables=1 ")


def test_killed_daemon_serves_again_within_seconds(machine: Machine) -> None:
    pid, begun = machine.property("zmsd", "MainPID"), time.monotonic()
    machine.run("systemctl", "kill", "--signal=SIGKILL", "zmsd")
    wait_until(lambda: machine.property("zmsd", "MainPID") not in ("0", pid) and serving(machine), "it serves", 30)
    seconds = time.monotonic() - begun
    print(f"kill -9 to serving: {seconds:.2f} s")
    assert seconds < 3 * FACTOR
    assert restarts(machine) == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_start_errors_are_in_the_journal_and_final(log_format: str, machine: Machine) -> None:
    configure(machine, log={"format": log_format}, feed={"heartbeat": -1})
    assert machine.run("systemctl", "restart", "zmsd", check=False).returncode != 0
    assert machine.property("zmsd", "ExecMainStatus") == "78"
    wait_until(lambda: machine.property("zmsd", "ActiveState") == "failed", "the unit has failed", 10)
    (line,) = [line for line in journal(machine, "--priority=err", "--lines=3").splitlines() if "must be" in line][-1:]
    if log_format == "json":
        record = json.loads(line)
        assert (record["level"], record["message"]) == ("error", "start failed")
    else:
        assert line.startswith(f"{FILE}:")
    configure(machine)


def test_commands_beside_a_stopped_daemon_leave_it_its_files(machine: Machine) -> None:
    machine.run("systemctl", "reset-failed", "zmsd")
    assert "database shop" in machine.run("zmsd", "store", "show").stdout
    machine.run("zmsd", "check")
    owners = machine.run("sh", "-c", "stat --format=%U /var/lib/private/zmsd/*").stdout.split()
    assert set(owners) == {"zmsd"}
    machine.run("systemctl", "start", "zmsd")
    wait_until(lambda: serving(machine), "zmsd serves", 30)
    machine.run("systemctl", "stop", "zmsd")


def test_start_that_fails_is_repeated_for_ever_and_slowly(machine: Machine) -> None:
    machine.run(
        "systemd-run",
        "--unit=taken",
        "/usr/bin/python3",
        "-c",
        "import socket, time; s = socket.create_server(('0.0.0.0', 3000)); time.sleep(600)",
    )
    begun = time.monotonic()
    machine.run("systemctl", "start", "--no-block", "zmsd")
    wait_until(lambda: restarts(machine) >= 3, "it has been started three times more", 60)
    assert time.monotonic() - begun >= 15
    assert "the port is in use by another process" in journal(machine, "--priority=err", "--lines=2")
    machine.run("systemctl", "stop", "taken")
    wait_until(lambda: serving(machine), "zmsd serves as soon as the port is free", 30)


def test_instance_has_settings_credentials_and_state_of_its_own(machine: Machine) -> None:
    server = {"port": 3100, "token_file": "token"}
    configure(machine, "/etc/zmsd/orders.yaml", server=server)
    machine.write("/etc/credstore/zmsd-orders.mongodb_uri", URI, 0o600)
    machine.write("/etc/credstore/zmsd-orders.token", "orders-token", 0o600)
    machine.run("systemctl", "start", "zmsd@orders")
    try:
        file = "/etc/zmsd/orders.yaml"
        wait_until(lambda: "serving" in machine.property("zmsd@orders", "StatusText"), "the instance serves", 30)
        assert "serving" in machine.run("zmsd", "status", "--config", file).stdout
        assert "/var/lib/zmsd-orders/watermarks.db" in machine.run("zmsd", "check", "--config", file).stdout
        machine.run("systemctl", "reload", "zmsd@orders")
        assert machine.run("zmsd", "reload", "--config", file).stdout.startswith("reloaded tables=1 ")
    finally:
        machine.run("systemctl", "stop", "zmsd@orders")


def test_upgrade_keeps_configuration_and_state_and_restarts(machine: Machine) -> None:
    before = machine.run("cat", FILE).stdout
    pid, kept = machine.property("zmsd", "MainPID"), machine.run("zmsd", "store", "show").stdout
    machine.run("apt-get", "install", "--yes", "/mnt/packages/newer.deb", timeout=120)
    wait_until(lambda: machine.property("zmsd", "MainPID") not in ("0", pid) and serving(machine), "it serves", 30)
    assert machine.run("zmsd", "--version").stdout.strip().endswith("+1")
    assert machine.run("cat", FILE).stdout == before
    assert machine.run("zmsd", "store", "show").stdout.splitlines()[0] == kept.splitlines()[0]
    assert "+1" in machine.run("zmsd", "status").stdout


def test_removal_keeps_configuration_and_state_and_purge_takes_all(machine: Machine) -> None:
    machine.run("apt-get", "remove", "--yes", "zmsd")
    assert machine.run("systemctl", "is-active", "zmsd", check=False).stdout.strip() == "inactive"
    assert not (machine.root / "opt/zmsd").exists()
    assert (machine.root / FILE.lstrip("/")).exists()
    assert (machine.root / "var/lib/private/zmsd/watermarks.db").exists()
    machine.run("apt-get", "purge", "--yes", "zmsd")
    everything = machine.run("find", "/", "-xdev", "-path", "/mnt", "-prune", "-o", "-name", "*zmsd*", "-print").stdout
    assert everything.split() == []
    assert machine.run("getent", "passwd", "zmsd", check=False).stdout == ""
    assert machine.run("systemctl", "list-unit-files", "--no-legend", "zmsd*", check=False).stdout == ""
