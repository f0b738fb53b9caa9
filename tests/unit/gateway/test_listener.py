"""The listener on a loopback port: deadlines, limits, answers, and connections that it hands over."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Event
from typing import Any

import pytest

from tests.support.wait import FACTOR, wait_until
from zmsd.gateway import connection as connections
from zmsd.gateway import listener as listeners
from zmsd.gateway.connection import Connection
from zmsd.gateway.http import REQUEST_BYTES
from zmsd.gateway.listener import Listener

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Served:
    """A listener that answers each request with its first line, and what it reported."""

    def __init__(self, sock: socket.socket) -> None:
        self.heads: list[bytes] = []
        self.deaths: list[str] = []
        self.ticks = Event()
        self.requested: Callable[[Connection, bytes], None] = self._answer
        self.listener = Listener(
            sock, lambda: None, lambda *asked: self.requested(*asked), self.ticks.set, self.deaths.append
        )
        self._address = sock.getsockname()
        self._clients = ExitStack()

    def connect(self, data: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        """Connect, and send ``data``."""
        sock = socket.create_connection(self._address, timeout=10, source_address=(source, 0))
        self._clients.enter_context(sock)
        sock.sendall(data)
        return sock

    def ask(self, data: bytes = REQUEST) -> bytes:
        return all_of(self.connect(data))

    def _answer(self, connection: Connection, head: bytes) -> None:
        self.heads.append(head)
        self.listener.answer(connection, b"HTTP/1.1 200 OK\r\n\r\n" + head.partition(b"\r\n")[0])


@contextmanager
def listening() -> Iterator[Served]:
    sock = socket.create_server(("127.0.0.1", 0), backlog=128)
    served = Served(sock)
    served.listener.thread.start()
    try:
        yield served
    finally:
        served.listener.stop()
        served.listener.thread.join(10)
        assert not served.listener.thread.is_alive()
        served._clients.close()


def all_of(sock: socket.socket) -> bytes:
    """Return what comes until the server closes."""
    found = b""
    with suppress(ConnectionResetError):
        while more := sock.recv(65536):
            found += more
    return found


def test_request_is_answered_and_the_connection_closed() -> None:
    with listening() as served:
        assert served.ask() == b"HTTP/1.1 200 OK\r\n\r\nGET / HTTP/1.1"
        assert served.heads == [REQUEST.removesuffix(b"\r\n\r\n")]
        assert served.ticks.wait(10)
    assert not served.deaths


def test_request_in_pieces_is_read_to_its_end() -> None:
    with listening() as served:
        sock = served.connect()
        for number in range(len(REQUEST)):
            sock.sendall(REQUEST[number : number + 1])
        assert all_of(sock).startswith(b"HTTP/1.1 200 ")


def test_request_that_is_too_large_has_no_head() -> None:
    with listening() as served:
        served.ask(b"GET / HTTP/1.1\r\nX: " + b"x" * REQUEST_BYTES + b"\r\n\r\n")
        assert served.heads == [b""]


@pytest.mark.parametrize("more", [b"", b"\x81\x00"])
def test_data_after_the_request_is_noted(more: bytes) -> None:
    """A WebSocket client must not send frames before the handshake is answered."""
    early: list[bool] = []
    with listening() as served:
        answer = served.requested

        def note(connection: Connection, head: bytes) -> None:
            early.append(connection.early)
            answer(connection, head)

        served.requested = note
        served.ask(REQUEST + more)
    assert early == [bool(more)]


def test_connection_that_does_not_speak_http_is_reset() -> None:
    """zero-cache 0.25 sends a Postgres start message, and goes on only after a reset."""
    with listening() as served:
        sock = served.connect(bytes.fromhex("0000000804d2162f"))
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert not served.heads


def test_released_connection_is_no_longer_the_listeners() -> None:
    taken: list[socket.socket] = []
    with listening() as served:
        served.requested = lambda connection, head: taken.append(served.listener.release(connection))
        sock = served.connect(REQUEST)
        wait_until(lambda: taken, "it is released")
        assert len(served.listener) == 0
        taken[0].sendall(b"mine")
        assert sock.recv(10) == b"mine"
    assert taken[0].fileno() >= 0, "a stop does not close it"
    taken[0].close()


def test_posted_answer_is_sent_by_the_listener() -> None:
    with listening() as served:
        asked: list[Connection] = []
        served.requested = lambda connection, head: asked.append(connection)
        sock = served.connect(REQUEST)
        wait_until(lambda: asked, "it is read")
        served.listener.post(asked[0], b"later")
        assert all_of(sock) == b"later"
        sock.close()
        wait_until(lambda: len(served.listener) == 0, "it has gone")
        served.listener.post(asked[0], b"again")  # closed meanwhile
        wait_until(lambda: not served.listener._posted, "it is looked at")
    assert not served.deaths


def test_delayed_answer_comes_after_the_delay() -> None:
    with listening() as served:
        served.requested = lambda connection, head: served.listener.answer(connection, b"no", 0.2)
        begun = time.monotonic()
        assert served.ask() == b"no"
        assert time.monotonic() - begun >= 0.2


def test_request_that_does_not_end_is_dropped_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds also if single bytes arrive slowly."""
    monkeypatch.setattr(listeners, "REQUEST_SECONDS", 0.3)
    with listening() as served:
        sock = served.connect(b"GET / HTTP/1.1\r\nx: ")
        sock.settimeout(0.02)
        ended = time.monotonic() + 10 * FACTOR
        while time.monotonic() < ended:
            try:
                sock.sendall(b"x")
                if not sock.recv(100):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        wait_until(lambda: len(served.listener) == 0, "it is closed")
        assert time.monotonic() < ended
        assert served.ask().startswith(b"HTTP/1.1 200 ")


def test_client_that_does_not_close_after_its_answer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "LINGER_SECONDS", 0.1)
    with listening() as served:
        served.connect(REQUEST)
        wait_until(lambda: served.heads, "it is answered")
        wait_until(lambda: len(served.listener) == 0, "it is closed")


def test_oldest_connection_is_closed_at_the_limit_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS_PER_ADDRESS", 3)
    with listening() as served:
        idle = []
        for number in range(5):
            idle.append(served.connect())
            wait_until(lambda number=number: len(served.listener) == min(number + 1, 3), "it is accepted")
        assert [sock.recv(1) for sock in idle[:2]] == [b"", b""]
        assert served.ask().startswith(b"HTTP/1.1 200 ")


def test_silent_connections_do_not_push_out_one_that_has_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TLS handshake takes several rounds of the loop, while a flood goes on."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS_PER_ADDRESS", 3)
    with listening() as served:
        first = served.connect(REQUEST[:20])
        wait_until(lambda: any(each.heard for each in served.listener._heard), "its bytes are read")
        silent = []
        for count in (2, 3, 4, 4, 4):
            silent.append(served.connect())
            wait_until(lambda count=count: len(served.listener) == count, "it is accepted")
        assert [sock.recv(1) for sock in silent[:2]] == [b"", b""]
        first.sendall(REQUEST[20:])
        assert first.recv(100).startswith(b"HTTP/1.1 200 ")


def test_connections_are_limited_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    with listening() as served:
        idle = [served.connect(source=f"127.0.0.{number}") for number in range(2, 7)]
        assert [sock.recv(1) for sock in idle[:2]] == [b"", b""]
        wait_until(lambda: len(served.listener) == 3, "three are left")


class Full:
    """A listening socket that has no file descriptors for a while."""

    def __init__(self, sock: socket.socket, failures: int) -> None:
        self._sock = sock
        self.failures = failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def accept(self) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._sock.accept()


def test_accepting_continues_after_file_descriptors_ran_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with listening() as served:
        full = Full(served.listener._sock, 3)
        served.listener._sock = full  # type: ignore[assignment]
        assert served.ask().startswith(b"HTTP/1.1 200 ")
        assert full.failures == 0
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == 'accepting a connection failed error="Too many open files"'
    assert messages[1].startswith("accepting a connection recovered attempts=")


def test_failing_request_handler_ends_its_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    with listening() as served:
        answer, served.requested = served.requested, lambda connection, head: 1 // 0
        assert served.ask() == b""
        served.requested = answer
        assert served.ask().startswith(b"HTTP/1.1 200 ")
    assert [record.getMessage() for record in caplog.records] == ["connection failed address=127.0.0.1"]
    assert not served.deaths


def test_failure_of_the_loop_is_reported_as_a_thread_death() -> None:
    deaths: list[str] = []

    def fail() -> None:
        raise RuntimeError("boom")

    sock = socket.create_server(("127.0.0.1", 0))
    listener = Listener(sock, lambda: None, lambda *_: None, fail, deaths.append)
    listener.thread.start()
    listener.thread.join(10)
    assert deaths == ["listener"]
    assert sock.fileno() == -1, "and the port is free"


def test_stop_closes_all_connections() -> None:
    with listening() as served:
        sock = served.connect(REQUEST[:20])
        wait_until(lambda: len(served.listener) == 1, "it is accepted")
        served.listener.stop()
        assert all_of(sock) == b"", "closed, or reset where its bytes had not been read"
    assert served.deaths == []
