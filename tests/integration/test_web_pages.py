"""Web pages of other origins in a real Chromium, against a daemon without a token. ZMSD_TEST_SKIP_BROWSER=1 skips."""

from __future__ import annotations

import http.server
import json
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.browser import Page, require_chromium
from tests.support.types import Db, Follow, Serve

RESOLVE = "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP rebound.example 127.0.0.1"
"""Chromium asks no DNS server: rebound.example stands for a name whose address the attacker has changed."""


@pytest.fixture(autouse=True)
def _browser() -> None:
    require_chromium()


@pytest.fixture
def evil() -> Iterator[int]:
    """Yield the port of an attacker's web server, with an empty page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "22")
            self.end_headers()
            self.wfile.write(b"<!doctype html><p>evil")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def websocket_outcome(page: Page, url: str) -> str:
    outcome: str = page.evaluate(
        f"new Promise(resolve => {{ const socket = new WebSocket({json.dumps(url)});"
        " socket.onmessage = message => resolve('read: ' + message.data); socket.onerror = () => resolve('refused'); })"
    )
    return outcome


def fetch_outcome(page: Page, url: str) -> str:
    outcome: str = page.evaluate(
        f"fetch({json.dumps(url)}).then(async answer => answer.status + ': ' + await answer.text(), () => 'refused')"
    )
    return outcome


def test_page_of_another_origin_reads_nothing(database: Db, serve: Serve, follow: Follow, evil: int) -> None:
    database.users.insert_one({"_id": "ann", "name": "a secret"})
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    client.wait_rows("user", 1)
    with Page(f"http://evil.example:{evil}/", RESOLVE) as page:
        for host in ("127.0.0.1", "localhost", "evil.example"):
            for app in ("evil", "zero"):
                url = f"ws://{host}:{zmsd.port}/changes/v0/stream?appID={app}&shardNum=0"
                assert websocket_outcome(page, url) == "refused"
            for path in ("/", "/status.json", "/metrics", "/readyz"):
                assert fetch_outcome(page, f"http://{host}:{zmsd.port}{path}") == "refused"
        mark = "&lastWatermark=00&replicaVersion=00"
        url = f"ws://127.0.0.1:{zmsd.port}/changes/v0/stream?appID=zero&shardNum=0{mark}"
        assert websocket_outcome(page, url) == "refused"
    database.users.insert_one({"_id": "bob"})
    client.wait_rows("user", 2)
    assert not client.closings, "and zero-cache has noticed nothing"
    assert not zmsd.log("reset required")


def test_rebound_name_reads_nothing(database: Db, serve: Serve) -> None:
    """The attacker's name resolves to zmsd itself, so that the page has the same origin."""
    zmsd = serve(SCHEMA, MAPPINGS)
    with Page(f"http://rebound.example:{zmsd.port}/status.json", RESOLVE) as page:
        assert page.evaluate("document.body.innerText").startswith("Host 'rebound.example")
        for path in ("/", "/status", "/status.json", "/metrics"):
            assert fetch_outcome(page, path) == "refused", "the refusal's own policy allows no requests at all"
        url = f"ws://rebound.example:{zmsd.port}/changes/v0/stream?appID=evil&shardNum=0"
        assert websocket_outcome(page, url) == "refused"


def test_root_links_the_pages_with_the_token_of_its_address(database: Db, serve: Serve) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"token": "right"}})
    with Page(f"http://127.0.0.1:{zmsd.port}/") as page:
        assert page.evaluate("document.title") == "zmsd: serving"
        text = page.evaluate("document.documentElement.outerHTML")
        assert not [word for word in ("rooms", "userMessage", "1.0.0", "/status") if word in text]
        assert page.evaluate("document.querySelectorAll('a').length") == 3
    with Page(f"http://127.0.0.1:{zmsd.port}/?token=right") as page:
        assert page.evaluate("document.querySelectorAll('a').length") == 9
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate("[...document.querySelectorAll('a')].find(link => link.pathname === '/status').click()")
        page.wait("location.pathname === '/status' && document.body?.innerText.includes('serving 3 collections')")
        assert not page.errors


def test_root_is_json_for_programs(serve: Serve) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    for accept in ("*/*", "application/json"):
        assert json.loads(zmsd.get("/", {"Accept": accept})[1])["name"] == "zmsd"
    assert json.loads(zmsd.get("/")[1])["tables"]["room"]["collection"] == "rooms"


def test_status_page_works_under_its_policy(database: Db, serve: Serve) -> None:
    """The status page works from its own origin, with its own script and no other."""
    zmsd = serve(SCHEMA, MAPPINGS)
    with Page(f"http://127.0.0.1:{zmsd.port}/status") as page:
        page.wait("document.body.innerText.includes('serving 3 collections')")
        assert fetch_outcome(page, "/status.json").startswith("200: ")
        ran = (
            "(() => { const script = document.createElement('script'); script.textContent = 'window.injected = 1';"
            " document.head.append(script); return window.injected === 1; })()"
        )
        assert page.evaluate(ran) is False
        assert not page.errors
