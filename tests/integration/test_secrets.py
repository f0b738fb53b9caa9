"""Secrets of the settings are never shown: a daemon with a secret in every setting that may hold one."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.integration.test_endpoints import Api
from tests.support.certificates import ONE, TWO, Certificate
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess, run_zmsd
from tests.support.mongod import ReplicaSet
from tests.support.wait import wait_until

SECRET = "5ecret"
"""Every secret below begins with it."""
KEY = ONE.key.splitlines()[1]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("no_proxy", "*")
    api = Api().start()
    yield api
    api.stop()


@pytest.fixture
def notified() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a service manager's socket, and the messages that it receives."""
    messages: list[str] = []
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{directory}/notify")

        def listen() -> None:
            with contextlib.suppress(OSError):
                while message := manager.recv(65536):
                    messages.append(message.decode())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield f"{directory}/notify", messages
        manager.shutdown(socket.SHUT_RDWR)
        thread.join(5)


class Everything:
    """Everything that a daemon shows."""

    def __init__(self, zmsd: ZmsdProcess, notified: list[str]) -> None:
        self._zmsd = zmsd
        self._notified = notified
        self.seen: list[str] = []

    def look(self) -> None:
        """Request all pages."""
        zmsd, token = self._zmsd, {"Authorization": f"Bearer {SECRET}-token"}
        for path in (
            "/",
            "/healthz",
            "/readyz",
            "/status",
            "/status.json",
            "/metrics",
            "/nothing",
            "/changes/v0/stream",
        ):
            self.seen.append(zmsd.get(path, token)[1])
        self.seen.append(zmsd.get("/status.json")[1])
        self.seen.append(Path(f"/proc/{zmsd.pid}/cmdline").read_text())
        for command in (["check"], ["status"], ["check", "--offline"]):
            arguments = [*command, "--config", str(zmsd.config_file)]
            done = run_zmsd(*arguments, cwd=zmsd.directory, environment=zmsd.environment)
            self.seen += [done.stdout, done.stderr]

    def check(self) -> None:
        files = [self._zmsd.directory / name for name in ("watermarks.db", "watermarks.db-wal")]
        files += (self._zmsd.directory / "documents").iterdir()
        kept = [file.read_bytes().decode(errors="replace") for file in files if file.exists()]
        for text in [self._zmsd.stderr(), *self._notified, *self.seen, *kept]:
            for line in text.splitlines():
                assert SECRET not in line
                assert KEY not in line
        assert self._notified
        assert kept


@pytest.mark.long
def test_daemon_shows_no_secret_in_any_output(
    api: Api, notified: tuple[str, list[str]], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "token").write_text(f"{SECRET}-token\n{SECRET}-token2\n")
    api.say("/schema", SCHEMA)
    api.say("/mappings", MAPPINGS)
    api.say("/permissions", {"tables": {}})
    headers = {"Authorization": f"Bearer {SECRET}-header"}
    settings: dict[str, dict[str, Any]] = {
        "mongodb": {"uri": None, "uri_file": "uri"},
        "schema": api.source("/schema?key=" + SECRET, headers=headers),
        "mappings": api.source("/mappings?key=" + SECRET, headers=headers),
        "zero": {"permissions": {"url": f"http://127.0.0.1:{api.port}/permissions?key={SECRET}", "headers": headers}},
        "server": {"token_file": "token"},
        "nats": {"servers": [f"nats://me:{SECRET}-nats@127.0.0.1"], "user": "me", "password": f"{SECRET}-nats"},
        "log": {"level": "debug"},
    }
    with ReplicaSet(tmp_path_factory.mktemp("secured"), auth=True) as replica_set:

        def become(password: str) -> None:
            (credentials / "uri").write_text(replica_set.uri("chat", ("zmsd", password)))

        with replica_set.client() as client:
            roles = [{"role": "readWrite", "db": "chat"}, {"role": "dbAdmin", "db": "chat"}]
            client.admin.command("createUser", "zmsd", pwd=f"{SECRET}-right", roles=roles)
            client["chat"].users.insert_one({"_id": "ann"})
        environment = {"CREDENTIALS_DIRECTORY": str(credentials), "NOTIFY_SOCKET": notified[0]}
        become(f"{SECRET}-wrong")
        process = ZmsdProcess(tmp_path / "zmsd", "", None, settings=settings, environment=environment)
        everything = Everything(process, notified[1])
        with process as zmsd:
            # A wrong password.
            zmsd.start(ready=False)
            token = {"Authorization": f"Bearer {SECRET}-token"}
            wait_until(lambda: "uthentication" in zmsd.get("/readyz", token)[1], "the reason is shown", 30)
            everything.look()
            zmsd.stop()
            # Clients with the right token and with wrong ones.
            become(f"{SECRET}-right")
            zmsd.start()
            with ChangeSourceClient(zmsd.port, query={"token": f"{SECRET}-token2"}) as follower:
                follower.wait_initial()
                wrong = base64.b64encode(f"me:{SECRET}-no".encode()).decode()
                for guess in ({"Authorization": f"Basic {wrong}"}, {"Authorization": f"Bearer {SECRET}-no"}):
                    everything.seen.append(zmsd.get(f"/status?token={SECRET}-no&k={SECRET}-no", guess)[1])
                everything.look()
                zmsd.signal(signal.SIGUSR1)
                # Reloads with secrets in wrong settings, and then a valid one with other secrets.
                zmsd.write(settings={"server": {"token": f"{SECRET} token", "token_file": None}})
                zmsd.signal(signal.SIGHUP)
                zmsd.wait_log("reload refused.*a token is")
                tls = Certificate(TWO.cert, ONE.key).write(tmp_path)
                zmsd.write(settings={"server": {"token": f"{SECRET}-token", "tls": tls}})
                zmsd.signal(signal.SIGHUP)
                zmsd.wait_log("reload refused.*server.tls")
                good = {"token": f"{SECRET}-token", "tls": None}
                zmsd.write(settings={"server": good, "nats": {"password": f"{SECRET}-other"}})
                become(f"{SECRET}-other")
                zmsd.signal(signal.SIGHUP)
                zmsd.wait_log("reloaded")
                # The endpoints are stopped, then MongoDB.
                api.stop()
                zmsd.wait_log("look at a document failed", count=2)
                everything.look()
                replica_set.close()
                wait_until(lambda: not zmsd.ready(), "it is noticed", 60)
                everything.look()
            assert zmsd.stop() == 0
            everything.check()


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://u:{}@h:port/db",
        "mongodb://u:{}@h:0/db",
        "mongodb://u:{}/x@h/db",
        "mongodb://u:x@{}@h/db",
        "mongodb://u:x:{}@h/db",
        "mongodb://u:x?{}@h/db",
        "mongodb://u:x#{}@h/db",
        "mongodb://u:{}%zz@h/db",
        "mongodb://u:{}@/db",
        "mongodb://u:{}@h",
        "mongodb://u:{}@h,/db",
        "mongodb://u:{}@h/db?tls=maybe",
        "mongodb://u:{}@h/db?tls=true&tlsCertificateKeyFile=none&tlsCertificateKeyFilePassword={}",
        "mongodb://u:{}@h/db?authMechanism=none&authMechanismProperties=AWS_SESSION_TOKEN:{}",
        "mongodb://u:p@h/db?authMechanismProperties=AWS_SESSION_TOKEN{}",
        "mongodb://u:p@h/db?unknown={}",
        "mongodb+srv://u:{}@h/db",
        "mongodb+srv://u:{}@zmsd-test.invalid/db",
        "mongo://u:{}@h/db",
    ],
)
def test_uri_error_shows_no_secret(uri: str, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    environment = {"MONGODB_URI": uri.replace("{}", SECRET), "SCHEMA_FILE": "schema.json", "PORT": "0"}
    done = run_zmsd("check", cwd=tmp_path, environment=environment)
    assert done.returncode in (1, 78)
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
