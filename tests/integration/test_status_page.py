"""/status.json, and /status in a real browser. ZMSD_TEST_SKIP_BROWSER=1 leaves the browser out.

ZMSD_TEST_SCREENSHOTS=DIRECTORY keeps the pictures.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA, create_collections
from tests.support.browser import Page, require_chromium
from tests.support.certificates import ONE, trust
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ADMIN, ReplicaSet
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until

BY_COLLECTION = {"feed": {"scope": "collection"}}
"""A reader, and a queue, for each collection."""
TOKEN = "swordfish/+&x"
HOSTILE = "<img src=x onerror=\"document.title='hacked'\">"


def status(zmsd: ZmsdProcess, query: str = "") -> dict[str, Any]:
    code, text = zmsd.get(f"/status.json{query}")
    assert code == 200
    found: dict[str, Any] = json.loads(text)
    return found


def test_status_json_describes_the_daemon(database: Db, serve: Serve, follow: Follow) -> None:
    create_collections(database)
    database.users.insert_one({"_id": "ann"})
    zmsd = serve(SCHEMA, MAPPINGS, settings=BY_COLLECTION)
    empty = status(zmsd)
    assert empty["ready"] is True
    assert empty["state"] == "serving 3 collections, no client is connected"
    assert empty["database"] == database.name
    assert empty["mongodb"] == "6.0.5"
    assert empty["sessions"] == []
    assert empty["feed_scope"] == "collection"
    assert [(one["images"], one["images_note"]) for one in empty["collections"]] == [(True, None)] * 3
    assert empty["last_reload"] is None
    assert empty["rejected"] == {"counts": [], "newest": []}
    client = follow(zmsd)
    zmsd.wait_log("session ends")  # that of its copy
    database.users.insert_one({"_id": "bob", "name": {"a": 1}})
    client.wait_rows("user", 2)
    found = wait_until(
        lambda: (now := status(zmsd))["sessions"] and now["sessions"][0]["acked"] == now["watermark"] and now,
        "it is confirmed",
    )
    (session,) = found["sessions"]
    assert (session["app"], session["shard"], session["state"]) == ("zero", 0, "streaming")
    assert session["sent"] == session["acked"] == found["watermark"]
    assert session["rows"] == 1
    assert session["backlog_transactions"] == session["backlog_seconds"] == 0
    assert session["copy"] is None
    assert [one["name"] for one in found["collections"]] == ["messages", "rooms", "users"]
    messages, _, users = found["collections"]
    assert messages["tables"] == ["userMessage", "systemMessage", "imageMessage"]
    assert (messages["events"], messages["lag"]) == (0, None)
    assert users["events"] == 1
    assert 0 <= users["lag"] < 30
    assert users["queue"] == [0, 2]
    (reject,) = found["rejected"]["newest"]
    assert (reject["table"], reject["reason"], reject["id"]) == ("user", "object in string column name", "bob")
    assert (reject["effect"], reject["column"]) == ("value sent as null", "name")
    reason = {"table": "user", "reason": "object in string column name"}
    newest = {"effect": "value sent as null", "column": "name", "id": "bob", "when": reject["when"]}
    assert found["rejected"]["counts"] == [reason | newest | {"count": 1}]
    lags = wait_until(lambda: status(zmsd)["sessions"][0]["lags"], "the lag of the replica is sampled")
    assert all(lag is None or 0 <= lag < 30 for lag in lags)
    client.hang_up()
    client.wait_connected(3)
    wait_until(lambda: len(status(zmsd)["sessions"][0]["lags"]) > len(lags), "the reconnected replica has its samples")
    history = wait_until(lambda: len((now := status(zmsd))["history"]["when"]) > 1 and now["history"], "two looks")
    assert len(history["when"]) == len(history["rate"]) == len(history["lag"])
    assert history["when"] == sorted(history["when"])
    assert wait_until(lambda: status(zmsd)["oplog_headroom"] is not None, "the oplog was looked at")

    zmsd.write(mappings={"nothing": {"collection": "x"}})
    zmsd.signal(signal.SIGHUP)
    refused = wait_until(lambda: status(zmsd)["last_reload"], "a reload")
    assert any("nothing" in fault for fault in refused["faults"])
    assert "refused" in status(zmsd)["state"]
    zmsd.write(mappings=MAPPINGS, settings={"feed": {"heartbeat": 50}})
    zmsd.signal(signal.SIGHUP)
    wait_until(lambda: status(zmsd)["last_reload"]["restart"] == ["feed.heartbeat"], "the next one")
    assert status(zmsd)["last_reload"]["faults"] == []


@pytest.mark.parametrize("path", ["/status", "/status.json", "/metrics", "/metadata/status", "/metadata/tables"])
def test_pages_need_the_token_when_one_is_set(path: str, serve: Serve) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"token": "right"}})
    for query, headers in (("", {}), ("?token=wrong", {}), ("", {"Authorization": "Bearer wrong"})):
        code, text = zmsd.get(path + query, headers)
        assert code == 401
        assert "zmsd_" not in text
    assert zmsd.get(f"{path}?token=right")[0] == 200
    assert zmsd.get(path, {"Authorization": "Bearer right"})[0] == 200


def test_status_json_shows_no_secret(tmp_path: Path, stack: Any) -> None:
    with ReplicaSet(tmp_path / "mongod", auth=True) as replica_set:
        settings = {"server": {"token": ["token-one", "token-two"]}}
        zmsd = ZmsdProcess(tmp_path / "zmsd", replica_set.uri("db", ADMIN), SCHEMA, MAPPINGS, settings=settings)
        secrets = (ADMIN[1], "token-one", "token-two")

        def silent() -> None:
            for path in ("/status", "/status.json", "/metrics", "/", "/readyz"):
                text = zmsd.get(f"{path}?token=token-one")[1]
                assert not [secret for secret in secrets if secret in text], path
            assert not [secret for secret in secrets if secret in zmsd.stderr()]

        with zmsd:
            zmsd.start()
            silent()
            # The wrong setting is named without its value.
            zmsd.write(settings={"mongodb": {"uri": f"mongodb://admin:{ADMIN[1]}@localhost:port/db"}})
            zmsd.signal(signal.SIGHUP)
            zmsd.wait_log("reload refused")
            silent()
            replica_set.nodes[0].kill()
            wait_until(lambda: not zmsd.ready(), "MongoDB is away")
            silent()


class StatusPage(Page):
    """Take a picture of the complete page at some width, light or dark."""

    def look_at(self, width: int, *, dark: bool = False) -> None:
        wanted = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[wanted])
        for height in (100, 0, 0):  # its height follows from its width, and is at least that of the window
            height = height or self.evaluate("document.documentElement.scrollHeight")
            size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600}
            self._call("Emulation.setDeviceMetricsOverride", **size)

    def badges(self, selector: str) -> list[tuple[str, str]]:
        """Return text and level of each badge, besides the quiet ones."""
        found = f"[...document.querySelectorAll({json.dumps(selector + ' .badge:not(.quiet)')})]"
        listed = self.evaluate(f"{found}.map(badge => [badge.innerText, badge.classList[1]])")
        return [(text, level) for text, level in listed]

    def open(self, selector: str, text: str) -> None:
        """Click on the row of a list that contains a text, and on the row that was open before."""
        rows = f"[...document.querySelectorAll({json.dumps(selector + ' details')})]"
        self.evaluate(f"{rows}.find(row => row.open)?.querySelector('summary').click()")
        self.evaluate(
            f"{rows}.find(row => row.innerText.includes({json.dumps(text)})).querySelector('summary').click()"
        )

    def text(self, selector: str) -> str:
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))


Browse = Callable[..., StatusPage]
"""Opens a status page, with further flags of Chromium, and waits until it shows the state."""


@pytest.fixture
def browse() -> Iterator[Browse]:
    require_chromium()
    opened: list[StatusPage] = []

    def browse(url: str, *flags: str) -> StatusPage:
        opened.append(StatusPage(url, *flags))
        opened[-1].wait("!document.querySelector('main').hidden")
        return opened[-1]

    yield browse
    for page in opened:
        page.close()
        assert not page.errors


def test_status_page_shows_the_status_in_a_browser(
    database: Db, serve: Serve, follow: Follow, browse: Browse, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("ZMSD_TEST_SCREENSHOTS", tmp_path))
    create_collections(database)
    home = {"city": "Ulm"}
    database.users.insert_many([{"_id": f"u{number}", "name": "x" * 1000, "address": home} for number in range(30_000)])
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"token": TOKEN}})
    query = {"token": TOKEN}
    client = follow(zmsd, query=query)
    zmsd.wait_log("session ends")  # that of its copy
    address = f"http://127.0.0.1:{zmsd.port}/status?token={TOKEN.replace('&', '%26').replace('+', '%2B')}"
    page = browse(address)
    assert page.evaluate("document.title") == "zmsd: serving"
    assert "feed scope: collection" in page.text("#facts")
    assert page.text("#state") == "serving 3 collections to 1 client"
    assert page.evaluate("document.querySelector('#problems').hidden") is True
    database.rooms.drop()
    page.wait("document.querySelector('#state').classList.contains('warn')")
    assert "rooms does not exist" in page.text("#problems")
    assert page.evaluate("document.title") == "zmsd: serving, 1 problem"
    assert page.badges("#collections") == [("missing", "warn"), ("off", "warn")]
    database.create_collection("rooms")
    page.wait("document.querySelector('#state').classList.contains('ok')")
    assert "zero/0" in page.text("#sessions")

    # The page refreshes itself.
    database.users.insert_one({"_id": HOSTILE, "name": {"a": 1}})
    client.wait_rows("user", 30_001)
    page.wait("document.querySelector('#collections').innerText.includes('users')")
    page.wait(f"document.querySelector('#rejected').innerText.includes({json.dumps(HOSTILE)})")
    slow = follow(zmsd, wait=False, app="slow", query=query, receive_buffer=4096)
    slow.wait_connected(1)
    slow.stop_reading()
    page.wait("document.querySelector('[role=progressbar]') !== null")
    assert "30,001 documents" in page.text("#sessions")
    zmsd.write(mappings={HOSTILE: {"collection": "x"}})
    zmsd.signal(signal.SIGHUP)
    page.wait("document.querySelector('#reload').innerText.includes('refused')")
    page.wait("document.querySelectorAll('figure svg .curve').length === 2")
    page.wait("document.querySelectorAll('#sessions svg .curve').length === 1", timeout=10)  # not of an initial sync
    assert HOSTILE.partition('"')[0] in page.text("#reload")
    assert page.evaluate("document.querySelector('#state').className") == "state warn"

    # Data is shown as text only, and the page loads nothing from elsewhere.
    assert page.evaluate("document.querySelectorAll('main img').length") == 0
    assert page.evaluate("document.title") == "zmsd: serving, 1 problem"
    loaded = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded
    origin = f"http://127.0.0.1:{zmsd.port}"
    assert {name.partition("?")[0] for name in loaded} == {f"{origin}/status.json", f"{origin}/metadata/tables"}

    for name, width, dark in (("wide", 1080, False), ("dark", 1080, True), ("phone", 360, False)):
        page.look_at(width, dark=dark)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        page.screenshot(pictures / f"status-{name}.png")
        assert (pictures / f"status-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert page.evaluate("getComputedStyle(document.querySelector('#collections .head')).display") == "none"

    zmsd.kill()
    page.wait("document.querySelector('#trouble').innerText.includes('does not answer')")
    assert "The data below is from" in page.text("#trouble")
    assert page.evaluate("document.title") == "zmsd: no answer"
    zmsd.write(mappings=MAPPINGS)
    zmsd.start()
    page.wait("document.querySelector('#trouble').hidden")
    page.wait("document.querySelector('#reload').innerText.includes('None since')")


def test_status_page_opens_a_collection_and_keeps_it_open(database: Db, serve: Serve, browse: Browse) -> None:
    create_collections(database)
    database.users.insert_many([{"_id": f"u{number}", "name": "Ann"} for number in range(200)])
    page = browse(f"http://127.0.0.1:{serve(SCHEMA, MAPPINGS).port}/status")
    page.wait("document.querySelector('#collections .tables') !== null")
    page.open("#collections", "messages")
    text = page.text("#collections details[open]")
    for part in ("userMessage", "systemMessage", "imageMessage", '{"kind":"image"}', "image.size", "json, optional"):
        assert part in text
    assert "Pre- and post-images are on." in text
    page.open("#collections", "users")
    page.wait("document.querySelector('#collections').innerText.includes('1 missing field')")
    assert page.badges("#collections details[open] .row") == [("1 missing field", "warn")]
    assert "which none of 200 sampled documents has" in page.text("#collections .reason")
    marked = "document.querySelector('#collections details[open] summary')"
    page.evaluate(f"window.kept = {marked}; kept.focus()")
    database.users.insert_one({"_id": "bob"})
    page.wait("[...kept.children].some(cell => cell.innerText === '1')")
    assert page.evaluate(f"kept === {marked} && document.activeElement === kept") is True


def test_status_page_shows_a_rejected_document_without_its_values(
    database: Db, serve: Serve, follow: Follow, browse: Browse
) -> None:
    create_collections(database)
    mappings = MAPPINGS | {
        "room": {"collection": "rooms", "fields": {"id": "slug", "title": "title", "count": "count"}}
    }
    zmsd = serve(SCHEMA, mappings)
    follow(zmsd)
    page = browse(f"http://127.0.0.1:{zmsd.port}/status")
    database.rooms.insert_one({"_id": HOSTILE, "title": {"of": "a secret"}, "count": "a secret"})
    database.users.insert_one({"_id": "dir\u202e\x07", "name": ["a secret"]})
    page.wait("document.querySelectorAll('#rejected details').length === 2")
    assert page.badges("#rejected") == [("row not sent", "bad"), ("value sent as null", "warn")]
    page.open("#rejected", "no primary key")
    assert page.evaluate("[...document.querySelectorAll('#rejected details[open] td')].map(cell => cell.innerText)")[
        :3
    ] == [HOSTILE, "id", "no primary key"]
    page.open("#rejected", "array in string column name")
    assert "dir\\u202e\\u0007" in page.text("#rejected")
    html = page.evaluate("document.documentElement.outerHTML")
    assert "a secret" not in html
    assert page.evaluate("document.querySelectorAll('main img').length") == 0
    for path in ("/status.json", "/metrics", "/metadata/tables"):
        assert "a secret" not in zmsd.get(path)[1]
    assert "a secret" not in zmsd.stderr()


def test_images_that_are_off_are_amber_only_where_they_are_wanted(
    database: Db, replica_set: ReplicaSet, serve: Serve, browse: Browse
) -> None:
    create_collections(database)
    unwanted = browse(f"http://127.0.0.1:{serve(SCHEMA, MAPPINGS, settings={'feed': {'images': 'off'}}).port}/status")
    wanted = browse(f"http://127.0.0.1:{serve(SCHEMA, MAPPINGS).port}/status")
    assert wanted.evaluate("document.querySelector('#state').className") == "state ok"
    with replica_set.failing("collMod", errorCode=13):
        database.command({"collMod": "rooms", "changeStreamPreAndPostImages": {"enabled": False}})
        wanted.wait("document.querySelector('#state').className === 'state warn'")
        assert wanted.badges("#collections") == [("off", "warn")]
        wanted.open("#collections", "rooms")
        assert "Pre- and post-images are off: " in wanted.text("#collections details[open]")
        assert "Unauthorized" in wanted.text("#collections details[open]")
    wanted.wait("document.querySelector('#state').className === 'state ok'")
    assert unwanted.badges("#collections") == []
    unwanted.open("#collections", "rooms")
    assert "Pre- and post-images are off: feed.images is off." in unwanted.text("#collections details[open]")


def test_status_page_shows_when_the_certificate_ends(
    database: Db, serve: Serve, browse: Browse, tmp_path: Path
) -> None:
    create_collections(database)
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"tls": ONE.write(tmp_path)}}, tls=trust(ONE))
    page = browse(f"https://127.0.0.1:{zmsd.port}/status", "--ignore-certificate-errors")
    assert "TLS certificate until 2120-01-01" in page.text("#facts")
    assert page.evaluate("document.title") == "zmsd: serving"


def test_tab_shows_that_zmsd_is_not_ready(tmp_path: Path, serve: Serve, browse: Browse) -> None:
    with ReplicaSet(tmp_path / "mongod") as replica_set:
        page = browse(f"http://127.0.0.1:{serve(SCHEMA, MAPPINGS, uri=replica_set.uri('db')).port}/status")
        replica_set.nodes[0].kill()
        page.wait("document.title === 'zmsd: not ready'")
        assert page.evaluate("decodeURIComponent(document.querySelector('#icon').href)").startswith(
            "data:image/svg+xml,"
        )


def test_status_page_reports_a_removed_token(serve: Serve, browse: Browse) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"token": "old"}})
    page = browse(f"http://127.0.0.1:{zmsd.port}/status?token=old")
    zmsd.write(settings={"server": {"token": "new"}})
    zmsd.signal(signal.SIGHUP)
    page.wait("document.querySelector('#trouble').innerText.includes('token')")
