"""The server on a loopback port, with sessions that only send a greeting."""

from __future__ import annotations

import base64
import http.client
import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.support.certificates import ONE
from tests.support.wait import FACTOR, wait_until
from tests.support.websocket import Closed, Refused, WebSocket
from tests.unit.fakes import hub
from zmsd import log as logs
from zmsd.deadline import Deadline
from zmsd.gateway import connection as connections
from zmsd.gateway import listener as listeners
from zmsd.gateway import server as servers
from zmsd.gateway import tls
from zmsd.gateway.http import Limits, Page, parse, prefers_html
from zmsd.gateway.registry import SessionRegistry
from zmsd.gateway.server import PageMaker, Server
from zmsd.gateway.subscription import Subscription
from zmsd.gateway.websocket import GOING_AWAY, Peer
from zmsd.replication.hub import Hub
from zmsd.zero.protocol import PATH, frame

QUERY = "appID=zero&shardNum=0"
STREAM = f"{PATH}?{QUERY}"


class Hello:
    """A session that sends a greeting, and stays until it is stopped; ``stubborn`` ones must be killed."""

    stubborn = False

    def __init__(self, number: int, address: str, subscription: Subscription, hub: Hub) -> None:
        self.number = number
        self.address = address
        self.subscription = subscription
        self._stop = Event()
        self._killed = Event()
        self._peer: Peer | None = None

    def run(self, peer: Peer) -> None:
        self._peer = peer
        peer.send(frame(f"hello {self.subscription.shard_name}"))
        while not peer.gone and not self._stop.wait(0.005):
            pass
        if self.stubborn:
            self._killed.wait(30)
        peer.close(GOING_AWAY, "zmsd stops")

    def stop(self) -> None:
        self._stop.set()

    def end_if_unreachable(self) -> None:
        pass

    def kill(self) -> None:
        self.stop()
        self._killed.set()
        if self._peer is not None:
            self._peer.kill()


def page(text: str) -> PageMaker:
    return lambda _: Page(200, "text/plain; charset=utf-8", text)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "Session", Hello)
    monkeypatch.setattr(servers, "REFUSAL_DELAY_SECONDS", 0.0)


@contextmanager
def serving(
    limits: Limits = Limits(),  # noqa: B008
    on_thread_death: Callable[[str], None] = lambda _: None,
    context: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    pages = {"/": page("index"), "/healthz": page("ok\n"), "/readyz": page("ready"), "/metrics": page("metrics é")}
    server = Server(("127.0.0.1", 0), hub(), SessionRegistry(limits), pages, context, on_thread_death)
    server.start()
    try:
        yield server
    finally:
        server.stop(Deadline(10))
        assert not server.registry.sessions()


def port(server: Server) -> int:
    return int(server.server_address[1])


def ask(server: Server, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port(server), timeout=10)
    with closing(connection):
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def raw(server: Server, data: bytes) -> bytes:
    """Return everything that the server sends until it closes."""
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


def test_pages_are_served_by_path() -> None:
    with serving() as server:
        assert ask(server, "/healthz") == (200, "ok\n")
        assert ask(server, "/metrics?x=1") == (200, "metrics é")
        status, text = ask(server, "/nothing/here?token=secret")
        assert status == 404
        assert "/nothing/here" in text
        assert PATH in text, "and what there is"
        assert "secret" not in text


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", True),
        ("application/json;q=0.5, TEXT/HTML ; q=0.9", True),
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=nan", False),
        ("text/html;q=;;,,", False),
    ],
)
def test_html_is_for_browsers_that_ask_for_it(accept: str, expected: bool) -> None:
    request = parse(f"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}".encode())
    assert prefers_html(request) is expected


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "BREW"])
def test_methods_other_than_get_and_head_are_405(method: str) -> None:
    with serving() as server:
        assert ask(server, "/", method=method)[0] == 405
        assert ask(server, "/metrics", {"Content-Length": "3"}, method=method)[0] == 405


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/nothing", STREAM])
def test_head_is_answered_as_get_without_a_body(path: str) -> None:
    with serving() as server:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        head, _, body = raw(server, request).partition(b"\r\n\r\n")
        assert body
        assert raw(server, request.replace(b"GET", b"HEAD")) == head + b"\r\n\r\n"


def test_stream_without_websocket_is_426() -> None:
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
def test_token_is_accepted_in_query_and_headers(query: str, headers: dict[str, str]) -> None:
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
def test_request_without_valid_token_is_401(query: str, headers: dict[str, str]) -> None:
    with serving(TOKENS) as server:
        assert ask(server, f"/metrics?{query}", headers)[0] == 401
        with pytest.raises(Refused, match="401"), streaming(server, f"{STREAM}&{query}", **headers):
            pass
        assert ask(server, "/healthz")[0] == 200, "a load balancer has none"


def test_credentials_beyond_ascii_are_401() -> None:
    with serving(TOKENS) as server:
        request = f"GET {STREAM} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic \xe9\xe9\r\n\r\n"
        assert raw(server, request.encode("latin-1")).startswith(b"HTTP/1.1 401 ")


def test_log_shows_no_token(caplog: pytest.LogCaptureFixture) -> None:
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


def test_refusal_is_delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """zero-cache reconnects at once, without limit."""
    monkeypatch.setattr(servers, "REFUSAL_DELAY_SECONDS", 0.5 * FACTOR)
    with serving(TOKENS) as server:
        for path, status in ((STREAM, 401), (f"{STREAM}&token=secret", 426)):
            before = time.monotonic()
            assert ask(server, path)[0] == status
            assert (time.monotonic() - before >= 0.5 * FACTOR) == (status == 401)


def test_delayed_refusal_does_not_delay_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "REFUSAL_DELAY_SECONDS", 60.0)
    with serving(TOKENS) as server:
        with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
            sock.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_until(lambda: len(server.listener), "the request is looked at")
            before = time.monotonic()
            server.stop(Deadline(10))
        assert time.monotonic() - before < 5 * FACTOR


def test_session_beyond_max_sessions_is_503() -> None:
    with serving(Limits(max_sessions=2)) as server:
        with streaming(server) as first, streaming(server):
            with pytest.raises(Refused, match="503.*max_sessions"), streaming(server):
                pass
            assert ask(server, "/healthz")[0] == 200
            first.close()
            wait_until(lambda: len(server.registry.sessions()) == 1, "one has left")
            with streaming(server) as third:
                assert third.receive() == "hello zero_0"
            server.apply(Limits(max_sessions=1), None)
            wait_until(lambda: len(server.registry.sessions()) == 1, "the third has left too")
            with pytest.raises(Refused, match="503"), streaming(server):
                pass
        wait_until(lambda: not server.registry.sessions(), "all have left")


def test_unadmitted_connections_do_not_displace_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS_PER_ADDRESS", 2)
    with serving() as server, streaming(server) as first, streaming(server) as second, streaming(server) as third:
        idle = [socket.create_connection(("127.0.0.1", port(server)), timeout=10) for _ in range(4)]
        assert [sock.recv(1) for sock in idle[:2]] == [b"", b""]
        assert {client.receive() for client in (first, second, third)} == {"hello zero_0"}
        assert len(server.registry.sessions()) == 3
        for sock in idle:
            sock.close()


def test_flood_of_idle_connections_does_not_lock_out_a_client() -> None:
    """2,000 connections are held open, and closed connections are opened again, all from the client's address."""
    opened = 0
    with serving(TOKENS) as server:
        stopped = Event()
        held: list[socket.socket] = []

        def flood() -> None:
            nonlocal opened
            while not stopped.is_set():
                with suppress(OSError):
                    sock = socket.create_connection(("127.0.0.1", port(server)), timeout=1)
                    sock.send(b"GET / HTTP/1.1\r\nX: ")
                    held.append(sock)
                    opened += 1
                if len(held) > 400:
                    held.pop(0).close()

        flooder = Thread(target=flood, daemon=True)
        flooder.start()
        try:
            waits = []
            while opened < 2000 or len(waits) < 79:
                before = time.monotonic()
                # A client that gets no processor between its connection and its request may be among the oldest of the
                # idle connections, which are closed. Like zero-cache, it tries again, which counts as its wait.
                served = False
                while not served:
                    with suppress(Closed), streaming(server, f"{STREAM}&token=secret") as client:
                        served = client.receive() == "hello zero_0"
                waits.append(time.monotonic() - before)
        finally:
            stopped.set()
            flooder.join(10)
            for sock in held:
                sock.close()
    # A full accept queue drops a SYN, and the client sends it again after 1 s.
    assert max(waits) < 5 * FACTOR, sorted(waits)[-5:]


# REVOKED TOKENS


@pytest.mark.parametrize(
    ("before", "after", "ends"),
    [
        (("secret", "other"), ("other",), True),
        (("secret",), ("new", "secret"), False),
        (("secret",), (), False),
        ((), ("secret",), True),
    ],
)
def test_session_ends_when_its_token_is_removed(before: tuple[str, ...], after: tuple[str, ...], ends: bool) -> None:
    with serving(Limits(tokens=before)) as server, streaming(server, f"{STREAM}&token=secret") as client:
        assert client.receive() == "hello zero_0"
        server.apply(Limits(tokens=after), None)
        if ends:
            with pytest.raises(Closed):
                client.receive()
            wait_until(lambda: not server.registry.sessions(), "it has left")
        else:
            server.registry.sessions()[0]._peer.send(frame("still here"))  # type: ignore[union-attr]
            assert client.receive() == "still here"


# WEB PAGES


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1:1", "https://localhost.evil.example"]
)
@pytest.mark.parametrize("limits", [Limits(), TOKENS], ids=["open", "token"])
def test_request_of_another_origin_is_403(origin: str, limits: Limits) -> None:
    with serving(limits) as server:
        for path in ("/", "/healthz", "/metrics?token=secret", f"{STREAM}&token=secret"):
            assert ask(server, path, {"Origin": origin})[0] == 403
        with pytest.raises(Refused, match="403"), streaming(server, f"{STREAM}&token=secret", Origin=origin):
            pass


def test_pages_accept_their_own_origin_and_the_stream_none() -> None:
    with serving() as server:
        for scheme in ("http", "https"):
            own = {"Origin": f"{scheme}://127.0.0.1:{port(server)}"}
            assert ask(server, "/metrics", own)[0] == 200
            with pytest.raises(Refused, match="403"), streaming(server, **own):
                pass


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4848", "localhost.evil.example", "", "a b", "127.0.0.1@evil", "[::1"]
)
def test_foreign_host_header_is_403_without_a_token(host: str) -> None:
    with serving() as server:
        for path in ("/", "/status.json", "/metrics", STREAM):
            assert ask(server, path, {"Host": host})[0] == 403
    with serving(TOKENS) as server:
        assert ask(server, "/metrics?token=secret", {"Host": host})[0] == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:4848", "[::1]:4848", "10.0.0.7", "localhost:80", "LOCALHOST", "db.internal:4848"]
)
def test_own_hosts_are_accepted_without_a_token(host: str) -> None:
    with serving(Limits(host="db.internal")) as server:
        assert ask(server, "/metrics", {"Host": host})[0] == 200


def test_all_answers_have_the_security_headers() -> None:
    with serving(TOKENS) as server:
        for path in ("/", "/metrics", "/metrics?token=secret", "/nothing", STREAM, "//"):
            head = raw(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).partition(b"\r\n\r\n")[0].decode()
            assert "\r\nX-Content-Type-Options: nosniff" in head
            assert "frame-ancestors 'none'" in head
            assert "default-src 'none'" in head
            assert "zmsd/" not in head, "nor the version"


# THE LOG


def test_refusals_are_logged_once_and_then_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(TOKENS) as server:
        for number in range(60):
            ask(server, f"/metrics?token=wrong{number}")
            ask(server, f"/{'x' * 9000}{number}?token=wrong")
            ask(server, STREAM, {"Origin": "http://" + "y" * 9000})
            raw(server, b"GET /\x1b[31m" + b"z" * 9000 + b" HTTP/1.1\r\n\r\n")
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 3
        assert max(map(len, lines)) < 400
        assert not any("\x1b" in line for line in lines)
        caplog.clear()
        monkeypatch.setattr(logs, "_WINDOW_SECONDS", 0.0)
        wait_until(lambda: len(caplog.records) >= 3, "they are counted")
        assert all("count=59" in record.getMessage() for record in caplog.records)


def test_client_that_disconnects_before_the_answer_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving() as server:
        server.pages = {"/big": page("x" * 50_000_000), "/": page("index")}
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert sock.recv(1)
        wait_until(lambda: not len(server.listener), "they have gone")
        assert ask(server, "/")[0] == 200
    assert not caplog.records


def test_failed_thread_start_is_one_log_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        starting = Thread.start

        def start(thread: Thread) -> None:
            if thread.name.startswith("session-"):
                raise RuntimeError("can't start new thread")
            starting(thread)

        monkeypatch.setattr(Thread, "start", start)
        for _ in range(20):
            with pytest.raises((Closed, Refused)), streaming(server):
                pass
        monkeypatch.setattr(Thread, "start", starting)
        assert not server.registry.sessions()
        assert len(caplog.records) == 1
        assert not caplog.records[0].exc_info
        with streaming(server) as client:
            assert client.receive() == "hello zero_0"


def test_page_that_raises_is_500() -> None:
    with serving() as server:
        server.pages = {"/": lambda _: Page(1 // 0, "", "")}
        assert ask(server, "/")[0] == 500


def test_invalid_query_is_400_with_reason() -> None:
    with serving() as server:
        with pytest.raises(Refused, match="400.*shardNum"), streaming(server, f"{PATH}?appID=zero"):
            pass
        assert not server.registry.sessions()


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
    "a long head": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"x" * 70_000,
    "a bad escape": b"GET /%zz%?%zz=%&&&=;; HTTP/1.1\r\n\r\n",
    "a handshake without a key": f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n".encode(),
    "a folded header": f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n x\r\n\r\n".encode(),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_ends_its_own_connection_only(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server, streaming(server) as client:
        assert client.receive() == "hello zero_0"
        # The client may disconnect without a close frame.
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
            sock.sendall(garbage)
            with suppress(OSError):  # the session has ended
                sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        assert ask(server, "/healthz")[0] == 200
        assert len(server.registry.sessions()) == 1
    assert not [record for record in caplog.records if record.exc_info], "without a traceback"


def test_invalid_url_is_answered_without_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        answer = raw(server, b"GET http://[ HTTP/1.1\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("shakes_hands", [False, True])
def test_tls_handshake_and_request_share_one_deadline(
    shakes_hands: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(listeners, "REQUEST_SECONDS", 0.6 * FACTOR)
    files = ONE.write(tmp_path)
    with serving(context=tls.context(Path(files["cert"]), Path(files["key"]))) as server:
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as plain:
            time.sleep(0.4 * FACTOR)  # of 0.6
            sock = plain
            if shakes_hands:
                sock = ssl.create_default_context(cadata=ONE.cert).wrap_socket(plain, server_hostname="127.0.0.1")
                sock.sendall(b"GET / HTTP/1.1\r\n")
            with suppress(OSError):
                assert sock.recv(1) == b""
            assert 0.5 * FACTOR < time.monotonic() - begin < 5 * FACTOR
            sock.close()


def test_flood_of_page_requests_does_not_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of connections that were closed in the meantime are not rendered."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS_PER_ADDRESS", 40)
    made: list[int] = []
    go = Event()

    def slow(allowed: bool) -> Page:
        go.wait(60 * FACTOR)
        made.append(1)
        return Page(200, "text/plain", "x")

    with serving() as server:
        server.pages = {"/": slow}
        held: list[socket.socket] = []
        # Under load some connections are closed before their requests are read: then more are needed.
        while len(held) < 300 or (server._requested_pages.qsize() <= 45 and len(held) < 3000):
            sock = socket.create_connection(("127.0.0.1", port(server)), timeout=10)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            held.append(sock)
        wait_until(lambda: len(server.listener) == 40, "all but forty are closed")
        wait_until(lambda: server._requested_pages.qsize() > 45, "their requests were queued")
        go.set()
        wait_until(lambda: not server._requested_pages.qsize(), "the queue is empty")
        for sock in held:
            sock.close()
    assert len(made) < 150, "of 300 or more"


def test_session_outlives_the_request_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "REQUEST_SECONDS", 0.1)
    with serving() as server, streaming(server) as client:
        assert client.receive() == "hello zero_0"
        over = time.monotonic() + 0.2
        wait_until(lambda: time.monotonic() > over, "the time of a request is over")
        client.ping()
        server.registry.sessions()[0]._peer.send(frame("still here"))  # type: ignore[union-attr]
        assert client.receive() == "still here"
        assert len(server.registry.sessions()) == 1


# START AND STOP


def test_stop_closes_sessions_with_1001() -> None:
    with serving() as server, streaming(server) as client:
        assert client.receive() == "hello zero_0"
        server.stop(Deadline(10))
        with pytest.raises(Closed) as caught:
            client.receive()
        assert (caught.value.code, caught.value.reason) == (1001, "zmsd stops")
        with pytest.raises(OSError):  # noqa: PT011 (refused or reset)
            socket.create_connection(("127.0.0.1", port(server)), timeout=10)


def test_session_that_does_not_stop_is_killed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hello, "stubborn", True)
    with serving() as server, streaming(server) as client:
        assert client.receive() == "hello zero_0"
        before = time.monotonic()
        server.stop(Deadline(1))
        assert 0.4 < time.monotonic() - before < 5 * FACTOR
        assert not server._threads
        assert not server.registry.sessions()


def test_server_refuses_sessions_when_stopping() -> None:
    with serving() as server:
        server.registry.close()
        with pytest.raises(Refused, match="503"), streaming(server):
            pass


def test_server_start_fails_when_port_in_use() -> None:
    with serving() as server, pytest.raises(OSError, match="in use"):
        Server(("127.0.0.1", port(server)), server.hub, SessionRegistry(Limits()), {}, None, lambda _: None)


def test_concurrent_requests_are_all_answered() -> None:
    with serving(Limits(max_sessions=40, max_sessions_per_address=40)) as server:
        answers: list[int] = []
        threads = [Thread(target=lambda: answers.append(ask(server, "/")[0]), daemon=True) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert answers == [200] * 30
