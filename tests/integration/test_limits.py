"""Limits: sessions, sessions of an address, and the size and time of a request."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.daemon import ZmsdProcess
from tests.support.types import Follow, Serve
from tests.support.wait import FACTOR, wait_until
from tests.support.websocket import Refused, WebSocket

STREAM = "/changes/v0/stream?appID=zero&shardNum=0"


def refused(zmsd: ZmsdProcess, target: str = STREAM) -> Refused:
    socket = WebSocket(zmsd.port)
    try:
        with pytest.raises(Refused) as refusal:
            socket.upgrade(target, {})
    finally:
        socket.abort()
    return refusal.value


def upgrade_from(address: str, zmsd: ZmsdProcess) -> tuple[int, http.client.HTTPConnection]:
    """Return the answer to a request from another address of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", zmsd.port, timeout=10, source_address=(address, 0))
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    connection.request("GET", STREAM, headers=headers)
    return connection.getresponse().status, connection


def test_session_beyond_max_sessions_is_503(serve: Serve, follow: Follow) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"max_sessions": 2}})
    first = follow(zmsd)
    follow(zmsd, app="two", again=True)
    begin = time.monotonic()
    refusal = refused(zmsd)
    assert refusal.status == 503
    assert "server.max_sessions (2)" in refusal.body
    assert time.monotonic() - begin > 0.9, "zero-cache knows no backoff"
    assert zmsd.get("/healthz")[0] == 200, "pages do not count as sessions"
    first.close()
    follow(zmsd, app="three", again=True)  # free once the end of the session was noticed


def test_session_beyond_max_sessions_per_address_is_503(serve: Serve, follow: Follow) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"max_sessions_per_address": 2}})
    first = follow(zmsd)
    follow(zmsd, app="two", again=True)
    refusal = refused(zmsd)
    assert refusal.status == 503
    assert "server.max_sessions_per_address (2)" in refusal.body
    status, connection = upgrade_from("127.0.0.2", zmsd)
    connection.close()
    assert status == 101
    first.close()
    follow(zmsd, app="three", again=True)  # free once the end of the session was noticed


def test_limits_and_tokens_are_reloaded(serve: Serve, follow: Follow) -> None:
    """A session stays connected while its token is valid."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"token": ["first", "second"]}})
    revoked = follow(zmsd, query={"token": "first"})
    connected = follow(zmsd, app="kept", query={"token": "second"}, again=True)
    zmsd.write(settings={"server": {"token": ["second", "third"], "max_sessions": 2}})
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("reloaded")
    wait_until(lambda: revoked.closings, "the session whose token was removed ends")
    assert zmsd.log("its token was removed")
    revoked.close()  # It would take the only free session once no token is needed.
    assert refused(zmsd, f"{STREAM}&token=first").status == 401
    other = follow(zmsd, app="other", query={"token": "third"}, again=True)
    assert refused(zmsd, f"{STREAM}&token=second").status == 503
    assert not connected.closings
    assert not zmsd.log("need a restart")
    other.close()
    zmsd.write(settings={"server": {"token": None}})
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("reloaded", count=2)
    follow(zmsd, app="anybody", again=True)


def test_settings_that_need_a_restart_are_reported_until_reverted(serve: Serve) -> None:
    """A token that is removed ends its sessions, also if nothing else has changed since the last reload."""
    zmsd = serve(SCHEMA, MAPPINGS)
    for count, (scope, said) in enumerate([("database", 1), ("database", 2), ("auto", 2)], 1):
        zmsd.write(settings={"feed": {"scope": scope}})
        zmsd.signal(signal.SIGHUP)
        zmsd.wait_log(" reloaded", count=count)
        assert len(zmsd.log("need a restart settings=feed.scope")) == said
        restart = json.loads(zmsd.get("/status.json")[1])["last_reload"]["restart"]
        assert restart == (["feed.scope"] if scope == "database" else [])


def raw(zmsd: ZmsdProcess, request: bytes) -> bytes:
    """Return the answer to some bytes, as much as arrives."""
    answer = b""
    with socket.create_connection(("127.0.0.1", zmsd.port), timeout=20) as sock:
        try:
            sock.sendall(request)
            while data := sock.recv(4096):
                answer += data
        except ConnectionError:  # zmsd does not read a request that is too large to its end
            pass
    return answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /healthz HTTP/1.1\r\nCookie: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET /healthz?" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(50)) + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(200)) + b"\r\n",
        b"x" * 100_000,
    ],
    ids=["a header", "a line", "all headers", "too many headers", "no end of line"],
)
def test_request_that_is_too_large_is_431(request_: bytes, serve: Serve) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    answer = raw(zmsd, request_)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 "), answer[:200]
    assert zmsd.get("/healthz", {"Cookie": "x" * 20_000})[0] == 200
    wait_until(lambda: not zmsd.log("Traceback"), "nothing breaks")


def ended(sock: socket.socket) -> bool:
    """Return whether the server has closed, after one more header."""
    try:
        sock.sendall(b"X: x\r\n")
        return not sock.recv(4096)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_request_that_takes_too_long_is_dropped(serve: Serve) -> None:
    """A slow request is dropped, however its bytes are spread over the time."""
    zmsd = serve(SCHEMA, MAPPINGS)
    with socket.create_connection(("127.0.0.1", zmsd.port), timeout=0.5) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\n")
        begin = time.monotonic()
        wait_until(lambda: ended(sock), "it is cut", 30)
        assert 8 < time.monotonic() - begin < 20 * FACTOR


def test_listening_beyond_loopback_needs_a_token_or_consent(serve: Serve, follow: Follow) -> None:
    settings: dict[str, dict[str, Any]] = {"server": {"host": "0.0.0.0"}}
    zmsd = serve(SCHEMA, MAPPINGS, settings=settings, start=False)
    zmsd.launch()
    assert zmsd.wait_exit() == 78
    assert "server.allow_anonymous" in zmsd.stderr()
    zmsd.write(settings={"server": {"allow_anonymous": True}})
    zmsd.start()
    follow(zmsd)
