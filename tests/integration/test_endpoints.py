"""Documents from an API, which zmsd requests at an interval, and can do without while the API is down."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA, create_collections
from tests.support.daemon import run_zmsd
from tests.support.ports import free_port
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until


class Api:
    """An endpoint that serves documents with an ETag, and can be stopped and started again on its port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.documents: dict[str, str] = {}
        self.answers: list[tuple[str, int]] = []
        """(path, status) of every request."""
        self.headers: dict[str, str] = {}
        """Of the newest request."""
        self._server: ThreadingHTTPServer | None = None

    def say(self, path: str, document: Any) -> None:
        self.documents[path] = document if isinstance(document, str) else json.dumps(document)

    def source(self, path: str, **more: Any) -> dict[str, Any]:
        """Return the setting for a document of the endpoint."""
        return {"file": None, "url": f"http://127.0.0.1:{self.port}{path}", "refresh": 1, **more}

    def start(self) -> Api:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.headers = dict(self.headers.items())
                text = api.documents.get(self.path.partition("?")[0])
                tag = f'"{hashlib.sha256((text or "").encode()).hexdigest()}"'
                status = 404 if text is None else 304 if self.headers.get("If-None-Match") == tag else 200
                body = text.encode() if text is not None and status == 200 else b""
                self.send_response(status)
                self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                api.answers.append((self.path, status))

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait_looks(self, count: int) -> None:
        """Wait until the endpoint got that many more requests."""
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted, f"{count} more requests", 20)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("no_proxy", "*")
    api = Api().start()
    api.say("/schema", SCHEMA)
    api.say("/mappings", MAPPINGS)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(api.stop)
        yield api


@pytest.fixture
def settings(api: Api) -> dict[str, Any]:
    return {"schema": api.source("/schema"), "mappings": api.source("/mappings?key=SECRET")}


def with_age() -> dict[str, Any]:
    schema = copy.deepcopy(SCHEMA)
    schema["user"]["columns"]["age"] = {"type": "number", "optional": True}
    return schema


def test_changed_document_is_reloaded(
    database: Db, api: Api, settings: dict[str, Any], serve: Serve, follow: Follow
) -> None:
    database.users.insert_one({"_id": "ann", "age": 7})
    settings["schema"]["headers"] = {"Authorization": "Bearer SECRET"}
    zmsd = serve(None, settings=settings)
    client = follow(zmsd)
    api.wait_looks(4)
    assert {status for _, status in api.answers[2:]} == {304}, "what has not changed is not sent again"
    assert not zmsd.log("reloaded|document changed")
    api.say("/schema", with_age())
    zmsd.wait_log(r"document changed document=http://127\.0\.0\.1:\d+/schema$")
    client.wait_for(lambda replica: replica.rows["user"][("ann",)].get("age") == 7, "the new column", 20)
    assert client.connections == 2
    zmsd.wait_log("reloaded")
    api.wait_looks(4)
    assert len(zmsd.log("reloaded")) == 1
    assert len(zmsd.log("document changed")) == 1
    assert "SECRET" not in zmsd.stderr()
    api.say("/schema", json.dumps(with_age(), indent=4))
    zmsd.wait_log("reloaded", count=2)
    assert len(client.transactions()) == 1, "it says the same in other words"


def test_bad_document_is_logged_once_and_changes_nothing(
    database: Db, api: Api, settings: dict[str, Any], serve: Serve, follow: Follow
) -> None:
    create_collections(database)
    zmsd = serve(None, settings=settings)
    client = follow(zmsd)
    bad = with_age()
    bad["user"]["columns"]["age"]["type"] = "numbr"
    api.say("/schema", bad)
    (line,) = zmsd.wait_log("reload refused")
    assert "user.columns.age.type" in line
    api.wait_looks(4)
    api.say("/schema", "<html>it is being upgraded</html>")
    (line,) = zmsd.wait_log("look at a document failed")
    assert "not JSON" in line
    api.wait_looks(4)
    database.users.insert_one({"_id": "ann"})
    client.wait_rows("user", 1)
    api.say("/schema", with_age())
    zmsd.wait_log("look at a document recovered")
    client.wait_for(lambda replica: "age" in replica.tables["user"].columns, "the new column", 20)
    assert len(zmsd.log("WARNING|ERROR")) == 2


def test_endpoint_outage_is_logged_once_and_recovers(
    database: Db, api: Api, settings: dict[str, Any], serve: Serve, follow: Follow
) -> None:
    zmsd = serve(None, settings=settings)
    client = follow(zmsd)
    api.stop()
    zmsd.wait_log("look at a document failed", count=2)
    database.users.insert_one({"_id": "ann"})
    client.wait_rows("user", 1)
    api.say("/schema", with_age())
    api.start()
    zmsd.wait_log("look at a document recovered", count=2)
    client.wait_for(lambda replica: "age" in replica.tables["user"].columns, "the new column", 20)
    assert len(zmsd.log("look at a document failed")) == 2, "once for each, not at every look"


def test_endpoint_down_at_start_uses_the_cached_document(
    database: Db, api: Api, settings: dict[str, Any], serve: Serve, follow: Follow
) -> None:
    database.users.insert_one({"_id": "ann", "age": 7})
    zmsd = serve(None, settings=settings)
    client = follow(zmsd)
    client.close()
    zmsd.stop()
    assert len(list((zmsd.directory / "documents").iterdir())) == 2, "beside the store"
    api.stop()
    zmsd.start()
    warned = zmsd.log("last good copy of a document used")
    assert len(warned) == 2
    assert all(re.search(r"age_seconds=\d+(\.\d+)?$", line) for line in warned)
    again = follow(zmsd, replica=client.replica)
    database.users.insert_one({"_id": "bob"})
    again.wait_rows("user", 2)
    api.say("/schema", with_age())
    api.start()
    again.wait_for(lambda replica: replica.rows["user"][("ann",)].get("age") == 7, "what was missed meanwhile", 20)
    assert again.connections == 1
    assert "SECRET" not in zmsd.stderr()


BAD = [
    '{"message": {"tab',
    "",
    "<html>maintenance</html>",
    "[]",
    '{"error": "maintenance"}',
    '{"user": {"columns": {}}}',
]


@pytest.mark.long
def test_bad_document_at_start_uses_the_cached_document(
    database: Db, api: Api, settings: dict[str, Any], serve: Serve, follow: Follow
) -> None:
    database.users.insert_one({"_id": "ann", "age": 7})
    settings["schema"]["refresh"] = 1
    zmsd = serve(None, settings=settings)
    stale = f'zmsd_document_stale{{document="http://127.0.0.1:{api.port}/schema"}}'
    assert f"{stale} 0" in zmsd.get("/metrics")[1]
    for number, bad in enumerate(BAD, 1):
        zmsd.stop()
        api.say("/schema", bad)
        zmsd.start()
        assert len(zmsd.wait_log("WARNING.*last good copy of a document used")) == number
        assert f"{stale} 1" in zmsd.get("/metrics")[1]
    api.say("/schema", with_age())
    client = follow(zmsd)
    client.wait_for(lambda replica: replica.rows["user"][("ann",)].get("age") == 7, "the document that is good", 20)
    wait_until(lambda: f"{stale} 0" in zmsd.get("/metrics")[1], "it is not stale any more")
    for bad in BAD:
        api.say("/schema", bad)
        wait_until(lambda: f"{stale} 1" in zmsd.get("/metrics")[1], "it is stale")
        api.say("/schema", with_age())
        wait_until(lambda: f"{stale} 0" in zmsd.get("/metrics")[1], "it is not stale any more")
    assert client.connections == 2


def test_endpoint_down_at_start_without_cache_fails_the_start(
    api: Api, settings: dict[str, Any], serve: Serve, tmp_path: Path
) -> None:
    """The endpoint may recover: exit status 1, after which systemd starts zmsd again. An invalid file stays invalid:
    78."""
    api.stop()
    zmsd = serve(None, settings=settings, start=False)
    zmsd.launch()
    assert zmsd.wait_exit() == 1
    lines = zmsd.stderr().splitlines()
    assert len(lines) == 2
    assert all("refused" in line for line in lines)
    assert "SECRET" not in zmsd.stderr()
    checked = run_zmsd("check", "--config", str(zmsd.config_file), cwd=tmp_path)
    assert checked.returncode == 1
    api.say("/schema", "{}")
    api.start()
    zmsd.launch()
    assert zmsd.wait_exit() == 1, "the endpoint may give another one"
    zmsd.write({}, settings={"schema": {"file": "schema.json", "url": None, "refresh": None}})
    zmsd.launch()
    assert zmsd.wait_exit() == 78


def test_check_reports_the_cached_document_and_writes_none(
    api: Api, settings: dict[str, Any], serve: Serve, tmp_path: Path
) -> None:
    zmsd = serve(None, settings=settings, start=False)
    done = run_zmsd("check", "--offline", "--config", str(zmsd.config_file), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (zmsd.directory / "documents").exists()
    zmsd.start()
    zmsd.stop()
    api.stop()
    done = run_zmsd("check", "--offline", "--config", str(zmsd.config_file), cwd=tmp_path)
    assert done.returncode == 0
    assert len(re.findall(r"^warning: .*refused; its last good copy, .* old, would be used$", done.stdout, re.M)) == 2
    assert "SECRET" not in done.stdout
