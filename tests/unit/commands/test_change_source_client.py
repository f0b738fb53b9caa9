"""The tools' client of a change source, against a server that sends fixed bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from zmsd.commands.change_source_client import SourceClient
from zmsd.errors import PeerError, PeerGone
from zmsd.zero.protocol import frame

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@contextmanager
def source(answer: Callable[[bytes], bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the URL of a server that answers a request with these bytes and nothing more, and the request."""
    requests: list[bytes] = []
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += sock.recv(4096)
                requests.append(request)
                sock.sendall(answer(request))
                done.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield "ws://127.0.0.1:{}".format(*listener.getsockname()[1:]), requests
        finally:
            done.set()
            thread.join(10)


def accept(request: bytes) -> bytes:
    key = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    proof = base64.b64encode(hashlib.sha1(key.partition(b":")[2].strip() + _GUID).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return head + b"Sec-WebSocket-Accept: " + proof + b"\r\n\r\n"


def test_message_sent_with_the_handshake_is_received() -> None:
    message = ["status", {"ack": True}, {"watermark": "00"}]
    with source(lambda request: accept(request) + frame(json.dumps(message))) as (url, _):
        client = SourceClient(url)
        assert next(client.messages(10)) == message
        client.close()


def test_request_has_parameters_and_headers() -> None:
    with source(accept) as (url, requests):
        client = SourceClient(url + "/?k=1", "app", 7, headers={"Authorization": "Bearer x"}, lastWatermark="00")
        client.close()
    assert requests[0].startswith(b"GET /changes/v0/stream?appID=app&shardNum=7&lastWatermark=00&k=1 HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer x\r\n" in requests[0]


def test_source_that_closes_at_once_raises_peer_error() -> None:
    with source(lambda request: accept(request) + b"\x88\x02\x03\xe9") as (url, _), pytest.raises(PeerError):
        next(SourceClient(url).messages(10))


@pytest.mark.parametrize(
    ("status", "reason"), [(b"401 No", "wrong or missing token"), (b"503 No", "too many clients"), (b"500 No", "500")]
)
def test_refusal_of_the_source_raises_its_reason_without_secrets(status: bytes, reason: str) -> None:
    refusal = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    with source(lambda _: refusal) as (url, _), pytest.raises(PeerError, match=reason) as caught:
        SourceClient(url.replace("ws://", "ws://me:SECRET@"))
    assert not isinstance(caught.value, PeerGone)
    assert "SECRET" not in str(caught.value)
