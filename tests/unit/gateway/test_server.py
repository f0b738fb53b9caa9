"""The server on a loopback port, with sessions that only say hello."""

from __future__ import annotations

import base64
import http.client
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.wait import wait_until
from tests.support.websocket import Closed, Refused, WebSocket
from zmsd.deadline import Deadline
from zmsd.gateway import http as handlers
from zmsd.gateway import server as servers
from zmsd.gateway.http import Limits, Page, subscription
from zmsd.gateway.server import Server
from zmsd.gateway.session import Subscription
from zmsd.gateway.websocket import GOING_AWAY, Peer
from zmsd.position import watermark
from zmsd.replication.change_log import ChangeLog
from zmsd.replication.hub import Hub
from zmsd.zero.protocol import PATH, frame

QUERY = "appID=zero&shardNum=0"
STREAM = f"{PATH}?{QUERY}"


class Hello:
    """A session that greets, and stays until it is told to go; ``stubborn`` ones have to be killed."""

    stubborn = False

    def __init__(self, number: int, address: str, wanted: Subscription, hub: Hub) -> None:
        self.number = number
        self.address = address
        self.wanted = wanted
        self._stop = Event()
        self._killed = Event()
        self._peer: Peer | None = None

    def run(self, peer: Peer) -> None:
        self._peer = peer
        peer.send(frame(f"hello {self.wanted.shard_name}"))
        while not peer.gone and not self._stop.wait(0.005):
            pass
        if self.stubborn:
            self._killed.wait(30)
        peer.close(GOING_AWAY, "zmsd stops")

    def stop(self) -> None:
        self._stop.set()

    def end_if_cut_off(self) -> None:
        pass

    def kill(self) -> None:
        self.stop()
        self._killed.set()
        if self._peer is not None:
            self._peer.kill()


def page(text: str) -> Callable[[], Page]:
    return lambda: Page(200, "text/plain; charset=utf-8", text)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "Session", Hello)
    monkeypatch.setattr(handlers, "REFUSAL_DELAY", 0.0)
    serve = Server.serve_forever
    monkeypatch.setattr(Server, "serve_forever", lambda self, poll_interval: serve(self, min(poll_interval, 0.01)))


@contextmanager
def serving(limits: Limits = Limits(), died: Callable[[str], None] = lambda _: None) -> Iterator[Server]:  # noqa: B008
    hub = cast(Hub, SimpleNamespace(log=ChangeLog()))
    pages = {"/": page("index"), "/healthz": page("ok\n"), "/readyz": page("ready"), "/metrics": page("metrics é")}
    server = Server(("127.0.0.1", 0), hub, pages, limits, None, died)
    server.start()
    try:
        yield server
    finally:
        server.stop(Deadline(10))
        assert not server.sessions()


def port(server: Server) -> int:
    return int(server.server_address[1])


def ask(server: Server, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port(server), timeout=10)
    with closing(connection):
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def raw(server: Server, data: bytes) -> bytes:
    """Everything that comes back until the server hangs up."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
        sock.sendall(data)
        with suppress(ConnectionError):
            while more := sock.recv(65536):
                answer += more
    return answer


@contextmanager
def streaming(server: Server, target: str = STREAM, **headers: str) -> Iterator[WebSocket]:
    client = WebSocket(port(server))
    try:
        client.upgrade(target, headers)
        yield client
    finally:
        client.abort(reset=False)


# PAGES


def test_pages() -> None:
    with serving() as server:
        assert ask(server, "/healthz") == (200, "ok\n")
        assert ask(server, "/metrics?x=1") == (200, "metrics é")
        status, text = ask(server, "/nothing/here?token=secret")
        assert status == 404
        assert "/nothing/here" in text
        assert PATH in text, "and what there is"
        assert "secret" not in text


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE", "BREW"])
def test_only_get_is_known(method: str) -> None:
    with serving() as server:
        assert ask(server, "/", method=method)[0] == 501


def test_the_stream_wants_a_websocket() -> None:
    with serving() as server:
        assert ask(server, STREAM)[0] == 426


# WHO MAY COME IN

TOKENS = Limits(tokens=("secret", "other"))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("token=secret", {}),
        ("k=secret", {}),
        ("token=wrong&token=other", {}),
        ("", {"Authorization": "Bearer secret"}),
        ("", {"Authorization": "bearer  other"}),
        ("", {"Authorization": basic("anyone", "secret")}),
    ],
)
def test_a_token_may_come_in_several_ways(query: str, headers: dict[str, str]) -> None:
    with serving(TOKENS) as server:
        assert ask(server, f"/metrics?{query}", headers) == (200, "metrics é")
        with streaming(server, f"{STREAM}&{query}", **headers) as client:
            assert client.receive() == "hello zero_0"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {}),
        ("token=", {}),
        ("token=Secret", {}),
        ("token=%FF%00", {}),
        ("token=secre%74x", {}),
        ("", {"Authorization": "Bearer"}),
        ("", {"Authorization": "Bearer wrong"}),
        ("", {"Authorization": basic("secret", "")}),
        ("", {"Authorization": "Basic not-base64"}),
        ("", {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()}),
        ("", {"Authorization": "Digest secret"}),
    ],
)
def test_without_a_token_nobody_comes_in(query: str, headers: dict[str, str]) -> None:
    with serving(TOKENS) as server:
        assert ask(server, f"/metrics?{query}", headers)[0] == 401
        with pytest.raises(Refused, match="401"), streaming(server, f"{STREAM}&{query}", **headers):
            pass
        assert ask(server, "/healthz")[0] == 200, "a load balancer has none"


def test_credentials_beyond_ascii_are_wrong_ones() -> None:
    with serving(TOKENS) as server:
        request = f"GET {STREAM} HTTP/1.1\r\nAuthorization: Basic \xe9\xe9\r\n\r\n"
        assert raw(server, request.encode("latin-1")).startswith(b"HTTP/1.1 401 ")


def test_no_token_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(TOKENS) as server:
        for query in ("token=secret", "token=hush"):
            for path in ("/metrics", "/nothing", PATH):
                ask(server, f"{path}?{query}", {"Authorization": basic("u", query)})
        raw(server, b"GET /?token=hush\r\n\r\n")
        raw(server, b"NONSENSE /?token=hush HTTP/1.1\r\n\r\n")
    assert "/metrics" in caplog.text
    assert "secret" not in caplog.text
    assert "hush" not in caplog.text


def test_a_refusal_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """zero-cache comes back at once, for ever."""
    monkeypatch.setattr(handlers, "REFUSAL_DELAY", 0.2)
    with serving(TOKENS) as server:
        for path, status in ((STREAM, 401), (f"{STREAM}&token=secret", 426)):
            before = time.monotonic()
            assert ask(server, path)[0] == status
            assert (time.monotonic() - before >= 0.2) == (status == 401)


def test_a_refusal_does_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "REFUSAL_DELAY", 60)
    with serving(TOKENS) as server:
        with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
            sock.sendall(f"GET {STREAM} HTTP/1.1\r\n\r\n".encode())
            wait_until(lambda: server._threads, "the request is looked at")
            before = time.monotonic()
            server.stop(Deadline(10))
        assert time.monotonic() - before < 5


def test_so_many_sessions_and_no_more() -> None:
    with serving(Limits(max_sessions=2)) as server:
        with streaming(server) as first, streaming(server):
            with pytest.raises(Refused, match="503.*max_sessions"), streaming(server):
                pass
            assert ask(server, "/healthz")[0] == 200
            first.close()
            wait_until(lambda: len(server.sessions()) == 1, "one has left")
            with streaming(server) as third:
                assert third.receive() == "hello zero_0"
            server.limits = Limits(max_sessions=1)
            wait_until(lambda: len(server.sessions()) == 1, "the third has left too")
            with pytest.raises(Refused, match="503"), streaming(server):
                pass
        wait_until(lambda: not server.sessions(), "all have left")


def test_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "MAX_CONNECTIONS", 2)
    with serving() as server:
        idle = [socket.create_connection(("127.0.0.1", port(server))) for _ in range(2)]
        wait_until(lambda: len(server._threads) == 2, "two are connected")
        assert raw(server, b"GET / HTTP/1.1\r\n\r\n") == b""
        for sock in idle:
            sock.close()
        wait_until(lambda: not server._threads, "they have gone")
        assert ask(server, "/healthz")[0] == 200


# WHAT A CLIENT ASKS FOR


def parsed(query: str) -> Subscription:
    return subscription({key: [value] for key, _, value in (part.partition("=") for part in query.split("&"))})


def test_subscriptions() -> None:
    assert parsed(QUERY) == Subscription("zero", 0, None, None)
    mark, version = watermark(99), watermark(5, 1)
    streaming = parsed(f"appID=my_app1&shardNum=12&lastWatermark={mark}&replicaVersion={version}&publications=x&k=y")
    assert streaming == Subscription("my_app1", 12, mark, version)
    assert streaming.shard_name == "my_app1_12"
    assert parsed(f"{QUERY}&lastWatermark=&replicaVersion=") == Subscription("zero", 0, None, None)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("shardNum=0", "appID"),
        ("appID=&shardNum=0", "appID"),
        ("appID=a.b&shardNum=0", "appID"),
        ("appID=a'b&shardNum=0", "appID"),
        ("appID=é&shardNum=0", "appID"),
        ("appID=zero", "shardNum"),
        ("appID=zero&shardNum=-1", "shardNum"),
        ("appID=zero&shardNum=²", "shardNum"),
        ("appID=zero&shardNum=1e3", "shardNum"),
        ("appID=zero&shardNum=9999999999", "shardNum"),
        (f"{QUERY}&lastWatermark=nonsense", "lastWatermark"),
        (f"{QUERY}&lastWatermark=00&replicaVersion=0A", "replicaVersion"),
        (f"{QUERY}&lastWatermark=00.", "lastWatermark"),
    ],
)
def test_what_cannot_be_asked_for(query: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parsed(query)


def test_who_asks_for_nonsense_is_told() -> None:
    with serving() as server:
        with pytest.raises(Refused, match="400.*shardNum"), streaming(server, f"{PATH}?appID=zero"):
            pass
        assert not server.sessions()


# BAD CLIENTS

GARBAGE = {
    "nothing": b"",
    "no HTTP": b"\x00\x01\x02\xff\xfe\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n",
    "half a request": b"GET / HT",
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n",
    "a bad header": b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 500 + b"\r\n",
    "a long line": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "a bad escape": b"GET /%zz%?%zz=%&&&=;; HTTP/1.1\r\n\r\n",
    "a handshake without a key": f"GET {STREAM} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".encode(),
    "a folded header": f"GET {STREAM} HTTP/1.1\r\nUpgrade: websocket\r\n x\r\n\r\n".encode(),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_ends_its_own_connection_only(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server, streaming(server) as client:
        assert client.receive() == "hello zero_0"
        # It may hang up without a word.
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
            sock.sendall(garbage)
            with suppress(OSError):  # it is not connected any more
                sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        assert ask(server, "/healthz")[0] == 200
        assert len(server.sessions()) == 1
    assert not [record for record in caplog.records if record.exc_info], "and is no bug of ours"


def test_a_path_that_is_no_url_is_no_bug_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        answer = raw(server, b"GET http://[ HTTP/1.1\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    assert not [record for record in caplog.records if record.exc_info]


def test_a_request_that_does_not_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a byte comes now and then."""
    monkeypatch.setattr(handlers, "REQUEST_SECONDS", 0.3)
    with serving() as server, socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
        sock.settimeout(0.02)
        ended = time.monotonic() + 10
        sock.sendall(b"GET / HTTP/1.1\r\nx: ")
        while time.monotonic() < ended:
            try:
                sock.sendall(b"x")
                if not sock.recv(100):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        wait_until(lambda: not server._threads, "its thread has ended")
        assert ask(server, "/healthz")[0] == 200


def test_a_session_outlives_the_time_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "REQUEST_SECONDS", 0.1)
    with serving() as server, streaming(server) as client:
        assert client.receive() == "hello zero_0"
        over = time.monotonic() + 0.2
        wait_until(lambda: time.monotonic() > over, "the time of a request is over")
        client.ping()
        server.sessions()[0]._peer.send(frame("still here"))  # type: ignore[union-attr]
        assert client.receive() == "still here"
        assert len(server.sessions()) == 1


# START AND STOP


def test_sessions_are_told_that_zmsd_stops() -> None:
    with serving() as server, streaming(server) as client:
        assert client.receive() == "hello zero_0"
        server.stop(Deadline(10))
        with pytest.raises(Closed) as caught:
            client.receive()
        assert (caught.value.code, caught.value.reason) == (1001, "zmsd stops")
        with pytest.raises(OSError):  # noqa: PT011 (refused or reset)
            socket.create_connection(("127.0.0.1", port(server)), timeout=10)


def test_who_does_not_stop_is_killed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hello, "stubborn", True)
    with serving() as server, streaming(server) as client:
        assert client.receive() == "hello zero_0"
        before = time.monotonic()
        server.stop(Deadline(1))
        assert 0.4 < time.monotonic() - before < 5
        assert not server._threads
        assert not server.sessions()


def test_while_it_stops_nobody_comes_in() -> None:
    with serving() as server:
        server.stopping.set()
        with pytest.raises(Refused, match="503"), streaming(server):
            pass


def test_a_listener_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[str] = []

    def fail(self: Any, poll_interval: float = 0) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(Server, "serve_forever", fail)
    with serving(died=deaths.append):
        wait_until(lambda: deaths == ["listener"], "it is told")


def test_a_port_that_is_taken() -> None:
    with serving() as server, pytest.raises(OSError, match="in use"):
        Server(("127.0.0.1", port(server)), server.hub, {}, Limits(), None, lambda _: None)


def test_many_at_once() -> None:
    with serving(Limits(max_sessions=40, max_sessions_per_address=40)) as server:
        answers: list[int] = []
        threads = [Thread(target=lambda: answers.append(ask(server, "/")[0]), daemon=True) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert answers == [200] * 30
