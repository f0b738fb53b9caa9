"""Hostile clients and strangers harm only themselves."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.faults.load import MAPPINGS, SCHEMA, exactly, load, received
from tests.faults.tally import LONG, Tally, pick
from tests.support.chance import chance
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR, wait_until
from tests.support.websocket import Closed, Refused, WebSocket

PATH = "/changes/v0/stream"
INITIAL = f"{PATH}?appID=hostile&shardNum=0"
MB = 1 << 20


@pytest.fixture
def zmsd(loaded: Db, serve: Serve) -> ZmsdProcess:
    return serve(SCHEMA, MAPPINGS)


@contextlib.contextmanager
def unharmed(
    database: Db, zmsd: ZmsdProcess, follow: Follow, tally: Tally, growth: int = 50 * MB
) -> Iterator[ChangeSourceClient]:
    """A well-behaved client streams meanwhile at its usual pace; zmsd uses little memory, and leaks no socket or
    thread."""
    good = follow(zmsd, app="good")
    process = psutil.Process(zmsd.pid)
    with load(database, good, tally=tally, threads=1):
        received(good, 3)
        rss, threads = process.memory_info().rss, process.num_threads()
        yield good
        received(good, 3, 10)
        grown = process.memory_info().rss - rss
        wait_until(lambda: len(connected(process, zmsd.port)) == 1, "the good client's connection alone is left", 40)
        wait_until(lambda: process.num_threads() <= threads + 3, f"not more than {threads} threads", 40)
    assert not good.closings
    assert grown < growth
    tally.note(f"RSS grew by {grown / MB:.0f} MiB")


def connected(process: psutil.Process, port: int) -> list[Any]:
    """The sockets of zmsd's clients."""
    found = process.net_connections("tcp")
    return [one for one in found if one.laddr.port == port and one.status != psutil.CONN_LISTEN]


def test_repeated_connections_that_end_badly_harm_no_client(
    loaded: Db, zmsd: ZmsdProcess, follow: Follow, tally: Tally
) -> None:
    """Disconnect like crashing clients: some send a close frame, some reset, some never send a request."""
    with unharmed(loaded, zmsd, follow, tally):
        for number in range(pick(150, 1000)):
            if number % 3:
                sock = wait_until(lambda: admitted(zmsd.port), "there is room: those before it have been noticed to go")
            else:
                sock = WebSocket(zmsd.port)
            if number % 2:
                sock.close()
            else:
                sock.abort(reset=number % 4 == 0)
            tally.survived += 1


def admitted(port: int) -> WebSocket | None:
    """Return a connection that asked for an initial sync; None if too many are connected from this address."""
    sock = WebSocket(port)
    try:
        sock.upgrade(INITIAL, {})
    except Refused as refused:
        sock.abort()
        if refused.status != 503:
            raise
        return None
    return sock


def test_connections_beyond_the_limit_harm_no_client(
    loaded: Db, zmsd: ZmsdProcess, follow: Follow, tally: Tally
) -> None:
    with unharmed(loaded, zmsd, follow, tally):
        sockets = []
        for _ in range(pick(300, 1000)):
            with contextlib.suppress(OSError):
                sockets.append(WebSocket(zmsd.port))
            tally.survived += 1
        streaming = 0
        for sock in sockets[:100]:
            with contextlib.suppress(Closed, Refused, OSError):
                sock.upgrade(INITIAL, {})
                streaming += 1
        for sock in sockets:
            sock.abort()
        assert streaming <= 64, "server.max_sessions"
    follow(zmsd, app="later")
    assert len(zmsd.log("accepting a connection")) < 5


def flood_of(frame: bytes, times: int) -> Callable[[WebSocket], None]:
    def send(sock: WebSocket) -> None:
        for _ in range(times):
            sock.send_raw(frame)

    return send


def masked(opcode: int, payload: bytes, length: int | None = None) -> bytes:
    """Return a client's frame, which announces ``length`` bytes."""
    size = len(payload) if length is None else length
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


ACK = b'["status",{"tag":"commit"},{"watermark":"00"}]'
MANY = pick(150, 2000)
FLOODS = {
    "a frame of 100 MB": flood_of(masked(1, b"x" * 100 * MB), 1),
    "a frame that announces 2^62 bytes": flood_of(masked(1, b"x" * MB, 1 << 62), 1),
    "a frame that announces 2^64 - 1 bytes": flood_of(masked(1, b"x", (1 << 64) - 1), 1),
    "a message in a million fragments": flood_of(bytes((0x00, 0x80, 0, 0, 0, 0)) * 1000, MANY),
    "pings without end": flood_of(masked(9, b"x" * 125) * 100, MANY),
    "pongs without end": flood_of(masked(10, b"x" * 125) * 100, MANY),
    "acknowledgements without end": flood_of(masked(1, ACK) * 100, MANY),
    "binary without end": flood_of(masked(2, b"x" * 60_000), MANY),
}


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
def test_flood_of_messages_harms_no_client(
    reads: bool, loaded: Db, zmsd: ZmsdProcess, follow: Follow, tally: Tally
) -> None:
    with unharmed(loaded, zmsd, follow, tally):
        for flood in FLOODS.values():
            sock = WebSocket(zmsd.port, receive_buffer=1 << 14)
            try:
                sock.upgrade(INITIAL, {})
                sock._sock.settimeout(2)  # zmsd may stop reading
                with contextlib.suppress(OSError):
                    flood(sock)
                if reads:
                    with contextlib.suppress(Closed, OSError):
                        for _ in range(100):
                            sock.receive()
                tally.survived += 1
            finally:
                sock.abort()


def test_slow_request_headers_are_dropped_after_ten_seconds(
    loaded: Db, zmsd: ZmsdProcess, follow: Follow, tally: Tally
) -> None:
    """Many connections at once send single bytes slowly; each is closed at its deadline."""
    with unharmed(loaded, zmsd, follow, tally):
        slow = [socket.create_connection(("127.0.0.1", zmsd.port)) for _ in range(pick(50, 200))]
        begun = time.monotonic()
        alive = list(slow)
        request = iter(f"GET {INITIAL} HTTP/1.1\r\nX-Header: ".encode() + b"x" * 10_000)
        try:
            while alive:
                byte = bytes((next(request),))
                for sock in list(alive):
                    try:
                        sock.sendall(byte)
                    except OSError:
                        alive.remove(sock)
                assert time.monotonic() - begun < 20 * FACTOR, f"{len(alive)} are still connected"
                exactly(0.2)
            assert zmsd.get("/healthz")[0] == 200
        finally:
            for sock in slow:
                sock.close()
        tally.survived += len(slow)


def test_malformed_requests_get_an_answer_or_a_close(
    loaded: Db, zmsd: ZmsdProcess, follow: Follow, tally: Tally
) -> None:
    """None of the requests is valid HTTP; each gets an answer, or its connection is closed."""
    rng = chance(15)
    requests = [
        b"",
        b"\r\n\r\n",
        b"GET",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nx",
        b"GET /%00%ff HTTP/1.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
        f"GET {INITIAL} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".encode(),
        f"GET {INITIAL} HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        *(rng.randbytes(rng.randrange(2000)) for _ in range(pick(20, 500))),
    ]
    with unharmed(loaded, zmsd, follow, tally):
        for request in requests:
            sock = socket.create_connection(("127.0.0.1", zmsd.port), timeout=15)
            with sock, contextlib.suppress(OSError):
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            tally.survived += 1
    assert "Traceback" not in zmsd.stderr()


def test_half_open_connection_is_replaced_by_the_reconnect(
    loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """The client's machine disappears without a close, and later answers that it has no such connection."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"heartbeat": 3600}})
    sock = WebSocket(zmsd.port)
    sock.upgrade(INITIAL, {})
    sock.receive()
    version = follow(zmsd, app="hostile").replica.version
    streaming = WebSocket(zmsd.port)
    streaming.upgrade(f"{INITIAL}&lastWatermark={version}&replicaVersion={version}", {})
    ended = len(zmsd.log("session ends"))
    for one in (sock, streaming):
        try:
            one._sock.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR: closing the socket then sends nothing
        except PermissionError:
            pytest.skip("needs CAP_NET_ADMIN")
        one._sock.close()
    begun = time.monotonic()
    if not LONG:
        loaded.a.insert_one({"_id": "sent", "n": 1})  # without data in flight, keepalive detects it
    zmsd.wait_log("session ends", 40, count=ended + 2)
    tally.survived += 2
    tally.note(f"noticed within {time.monotonic() - begun:.0f} s")


@pytest.mark.parametrize("busy", pick([True], [True, False]), ids=lambda busy: "busy" if busy else "idle")
def test_connection_whose_packets_vanish_is_closed_within_seconds(
    busy: bool, loaded: Db, serve: Serve, tally: Tally, stack: contextlib.ExitStack
) -> None:
    """The client's machine is unplugged, with or without data on its way."""
    address = stack.enter_context(namespace(NAME))
    server = {"host": "0.0.0.0", "token": "secret"}
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": server, "feed": {"heartbeat": 3600}})
    request = (
        f"GET {INITIAL}&token=secret HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    script = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])));"
        "s.sendall(sys.argv[3].encode());"
        "[s.recv(65536) for _ in iter(int, 1)]"
    )
    command = ["ip", "netns", "exec", NAME, sys.executable, "-c", script, address, str(zmsd.port), request]
    client = subprocess.Popen(command)
    stack.callback(client.wait)
    stack.callback(client.kill)
    zmsd.wait_log("initial sync finished")
    exactly(1)
    ip("-n", NAME, "address", "flush", "dev", f"{NAME}b")
    begun = time.monotonic()
    if busy:
        loaded.a.insert_one({"_id": "lost", "n": 1})
    zmsd.wait_log("session ends", 60)
    assert time.monotonic() - begun < 22 * FACTOR
    tally.survived += 1
    tally.note(f"noticed within {time.monotonic() - begun:.0f} s")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


NAME = f"zmsd{os.getpid()}"  # Names of the network and, with a letter, of the two ends of its cable.
NET = f"10.199.{os.getpid() % 250}"


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """Create a separate network, and yield the address of this machine in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespaces here")
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        ip("address", "add", f"{NET}.1/30", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "address", "add", f"{NET}.2/30", "dev", f"{name}b")
        ip("-n", name, "link", "set", f"{name}b", "up")
        yield f"{NET}.1"
    finally:
        subprocess.run(["ip", "link", "delete", f"{name}a"], check=False, capture_output=True)
        ip("netns", "delete", name)
