"""Random requests and frames: each ends its own connection at most. ZMSD_TEST_LONG=1 runs for ten minutes."""

from __future__ import annotations

import base64
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.wait import wait_until
from tests.unit.fakes import hub
from tests.unit.gateway.test_server import Hello
from tests.unit.gateway.test_websocket import loopback
from zmsd.deadline import Deadline
from zmsd.errors import PeerError, RequestRefused
from zmsd.gateway import http, websocket
from zmsd.gateway import server as servers
from zmsd.gateway.http import Limits, Page
from zmsd.gateway.registry import SessionRegistry
from zmsd.gateway.server import Server
from zmsd.gateway.subscription import parse_subscription
from zmsd.gateway.websocket import Peer

LONG = os.environ.get("ZMSD_TEST_LONG") == "1"
PART_SECONDS = 200.0
"""Of each of the three tests in the long version, ten minutes together."""
TOKEN = "secret"
QUIET = settings(derandomize=False, max_examples=200, suppress_health_check=list(HealthCheck))

WORDS = [
    *(
        b"GET",
        b"HEAD",
        b"POST",
        b" ",
        b"\t",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b":",
        b": ",
        b",",
        b"HTTP/1.1",
        b"HTTP/1.0",
    ),
    *(b"/", b"/status.json", b"/changes/v0/stream", b"?", b"&", b"=", b"%", b"%00", b"%ff", b"#", b"//", b"http://x/"),
    *(b"appID=zero", b"shardNum=0", b"lastWatermark=", b"replicaVersion=", b"token=secret", b"token=", b"k="),
    *(b"Host", b"Origin", b"localhost", b"127.0.0.1", b"[::1]", b"[", b"]", b"evil.example", b"null", b"http://"),
    *(b"Upgrade", b"websocket", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"13", b"keep-alive"),
    *(b"Sec_WebSocket_Extensions", b"Sec-WebSocket-Extensions", b"permessage-deflate", b"dGhlIHNhbXBsZSBub25jZQ=="),
    *(b"Authorization", b"Basic ", b"Bearer ", b"secret", base64.b64encode(b"u:secret"), b"Content-Length", b"-1"),
    *(b"\x00", b"\x1b[31m", b"\x9b", b"\xff", b"\xe2\x80\xae", b"_", b"x" * 300, b"9" * 5000, b"X: y\r\n" * 40),
]
HANDSHAKE = (
    b"GET /changes/v0/stream?appID=zero&shardNum=0&token=secret HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
bits = st.sampled_from(WORDS) | st.binary(max_size=8)
PAGE = b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n\r\n"
LENGTHS = [0, 125, 126, 65535, 65536, 1 << 31, (1 << 63) - 1, (1 << 64) - 1]
BODIES = [b"x" * 4096, b"x" * 4097, bytes(70_000), b"\xff", b"\xe2\x82", b'["status",{},{"watermark":"00"}]']
soup = st.lists(bits, max_size=60).map(b"".join)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return a strategy for requests that are well formed except for inserted, removed or repeated parts, or random."""
    if draw(st.booleans()):
        return draw(soup)
    data = draw(st.sampled_from([HANDSHAKE, PAGE]))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        until = draw(st.integers(at, min(at + 30, len(data))))
        data = data[:at] + draw(bits) + data[until:] if draw(st.booleans()) else data[:until] + data[at:]
    return data


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Return a strategy for frames with any bits in the head, a length that may be wrong, masked or not."""
    first = draw(st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0x83]) | st.integers(0, 255))
    body = draw(
        st.binary(max_size=130)
        | st.sampled_from(
            [b"x" * 4096, b"x" * 4097, b"\x00" * 70_000, b"\xff", b"\xe2\x82", b'["status",{},{"watermark":"00"}]']
        )
        | st.builds(lambda code, text: struct.pack(">H", code) + text, st.integers(0, 65535), st.binary(max_size=130))
    )
    length = draw(
        st.just(len(body)) | st.sampled_from([0, 125, 126, 65535, 65536, 1 << 31, (1 << 63) - 1, (1 << 64) - 1])
    )
    mask = draw(st.sampled_from([0x80, 0x80, 0x80, 0]))
    if length < 126:
        head = bytes([first, mask | length])
    elif length < 65536:
        head = bytes([first, mask | 126]) + struct.pack(">H", length)
    else:
        head = bytes([first, mask | 127]) + struct.pack(">Q", length)
    return head + (draw(st.just(bytes(4)) | st.binary(min_size=4, max_size=4)) if mask else b"") + body


def each(strategy: st.SearchStrategy[Any], check: Any) -> None:
    """Run ``check`` with some hundred examples, or in the long version for its time."""
    end = time.monotonic() + PART_SECONDS
    while True:
        QUIET(given(strategy)(check))()
        if not LONG or time.monotonic() > end:
            return


@contextmanager
def serving() -> Iterator[Server]:
    pages = {"/": lambda _: Page(200, "text/plain", "x"), "/status.json": lambda _: Page(200, "text/plain", "x")}
    limits = Limits(tokens=(TOKEN,), max_sessions_per_address=64)
    server = Server(
        ("127.0.0.1", 0), hub(), SessionRegistry(limits), pages, None, lambda thread: pytest.fail(f"{thread} died")
    )
    server.start()
    try:
        yield server
    finally:
        server.stop(Deadline(20))


def test_any_request_is_parsed_or_refused() -> None:
    def check(data: bytes, limits: Limits) -> None:
        head = data.partition(http.HEAD_END)[0]
        try:
            request = http.parse(head)
            assert request.path.startswith("/")
            assert not any("_" in name or name != name.lower() for name in request.headers)
            assert not any(ord(char) < 32 and char != "\t" for value in request.headers.values() for char in value)
            token = http.accepted_token(request, limits.tokens)
            assert token in (None, *limits.tokens)
            assert (
                token is None or TOKEN.encode() in data or b"c2VjcmV0" in data or b"%" in data or b"OnNlY3JldA" in data
            )
            http.check_origin(request, limits, page=True)
            http.check_handshake(request)
            with suppress(ValueError):
                parse_subscription(request.query)
        except RequestRefused as refusal:
            answer = http.render(http.text_page(refusal.status, refusal.reason, refusal.headers), True)
            head, _, body = answer.partition(http.HEAD_END)
            assert len(body) < 1000
            assert b"\n" not in head.replace(b"\r\n", b"")
            assert b"\x1b" not in body

    each(st.tuples(requests(), st.sampled_from([Limits(), Limits(tokens=(TOKEN, "x"))])), lambda given_: check(*given_))


def test_any_bytes_leave_the_server_serving(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(servers, "REFUSAL_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(servers, "Session", Hello)
    with serving() as server:

        def check(pieces: list[bytes]) -> None:
            caplog.clear()
            with socket.create_connection(server.server_address, timeout=10) as sock, suppress(OSError):
                for piece in pieces:
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            assert not [record for record in caplog.records if record.exc_info]

        each(st.lists(requests() | frames(), min_size=1, max_size=4), check)
        wait_until(lambda: not server.registry.sessions() and not len(server.listener), "all have gone")
        with socket.create_connection(server.server_address, timeout=10) as sock:
            sock.sendall(HANDSHAKE)
            assert sock.recv(12) == b"HTTP/1.1 101"


def test_any_frames_end_their_own_connection_at_most(caplog: pytest.LogCaptureFixture) -> None:
    headers = {
        name.lower(): value
        for name, _, value in (line.partition(": ") for line in HANDSHAKE.decode().split("\r\n")[1:] if line)
    }

    def check(sent: list[bytes]) -> None:
        caplog.clear()
        near, far = loopback()
        with near, far:
            peer = Peer(near, headers, "session-1")
            far.settimeout(0.02)
            with suppress(OSError):
                for data in sent:
                    far.sendall(data)
                far.shutdown(socket.SHUT_WR)
            taken = 0

            def ended() -> bool:
                nonlocal taken
                try:
                    with suppress(OSError):
                        far.recv(65536)
                    for message in peer.received():
                        taken += 1
                        size = len(message.encode() if isinstance(message, str) else message)
                        assert size <= websocket.MAX_MESSAGE_BYTES
                except PeerError:
                    return True
                return False

            wait_until(ended, "the session hears of its end")
            peer.close(websocket.GOING_AWAY, "end")
            peer._ws.thread.join(10)
            assert not peer._ws.thread.is_alive()
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    each(st.lists(frames() | soup, max_size=8), check)
