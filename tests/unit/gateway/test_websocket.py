"""A Peer on a loopback socket, with a client that behaves well, badly or slowly."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, Pong, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

from tests.support.wait import wait_until
from zmsd.errors import PeerGone, PeerProtocolError
from zmsd.gateway import websocket
from zmsd.gateway.websocket import Peer
from zmsd.zero.protocol import frame


class Far:
    """The client. It reads only on request."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.events: list[Any] = []
        self._ws = WSConnection(ConnectionType.CLIENT)
        request = self._ws.send(Request(host="zmsd.test", target="/", extensions=[PerMessageDeflate()]))
        lines = request.decode().split("\r\n")[1:-2]
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        """Of its request: the server reads them, and gives them to the Peer."""

    def send(self, event: Event) -> None:
        self.sock.sendall(self._ws.send(event))

    def read_until(self, fact: Callable[[], object], description: str) -> None:
        """Read until a condition is true. Raises AssertionError at the end of the stream."""
        while not fact():
            data = self.sock.recv(1 << 16)
            assert data, f"it ended before: {description}"
            self._ws.receive_data(data)
            self.events += self._ws.events()

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def texts(self) -> list[str]:
        texts = [""]
        for event in self.of(TextMessage):
            texts[-1] += event.data
            if event.message_finished:
                texts.append("")
        return texts[:-1]


def loopback(small: bool = False) -> tuple[socket.socket, socket.socket]:
    """Yield two ends of a TCP connection, because set_socket_options is about TCP.

    :param small: with small buffers in the kernel
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        far = socket.socket()
        if small:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        far.settimeout(10)
        far.connect(listener.getsockname())
        return listener.accept()[0], far


@contextmanager
def connected(small: bool = False) -> Iterator[tuple[Peer, Far]]:
    near, sock = loopback(small)
    with near, sock:
        far = Far(sock)
        peer = Peer(near, far.headers, "session-1")
        far.read_until(lambda: far.of(AcceptConnection), "the handshake is answered")
        try:
            yield peer, far
        finally:
            peer.kill()
            peer._ws.thread.join(10)
            assert not peer._ws.thread.is_alive(), "the receive thread ends"


def received(peer: Peer, count: int) -> list[str | bytes]:
    messages: list[str | bytes] = []

    def enough() -> bool:
        try:
            messages.extend(peer.received())
        except PeerGone:
            assert len(messages) >= count
        return len(messages) >= count

    wait_until(enough, f"{count} messages have come")
    return messages


def ended(peer: Peer) -> str:
    """Wait until the connection has ended, and return the reason."""
    reasons: list[str] = []

    def gone() -> bool:
        try:
            list(peer.received())
        except PeerGone as error:
            reasons.append(str(error))
        return bool(reasons)

    wait_until(gone, "the peer is gone")
    return reasons[0]


def test_messages_are_exchanged_both_ways() -> None:
    with connected() as (peer, far):
        assert list(peer.received()) == []
        for number in range(100):
            far.send(TextMessage(data=f"up {number}"))
        assert received(peer, 100) == [f"up {number}" for number in range(100)]
        peer.send(b"".join(frame(f"down {number}") for number in range(100)))
        far.read_until(lambda: len(far.texts()) == 100, "all messages have come")
        assert far.texts() == [f"down {number}" for number in range(100)]


def test_compression_is_refused() -> None:
    with connected() as (_, far):
        assert "permessage-deflate" in far.headers["sec-websocket-extensions"]
        (accepted,) = far.of(AcceptConnection)
        assert not [extension for extension in accepted.extensions if isinstance(extension, PerMessageDeflate)]


@pytest.mark.parametrize("lacking", ["upgrade", "connection", "sec-websocket-key", "sec-websocket-version"])
def test_incomplete_handshake_is_a_protocol_error(lacking: str) -> None:
    near, sock = loopback()
    with near, sock:
        headers = Far(sock).headers
        del headers[lacking]
        with pytest.raises(PeerProtocolError):
            Peer(near, headers, "session-1")


def test_pong_is_never_within_a_data_frame() -> None:
    """The reader is so slow that each frame is sent in pieces, and pings arrive meanwhile."""
    texts = [f"{number} " + "x" * 200_000 for number in range(5)]
    with connected(small=True) as (peer, far):
        writer = Thread(target=lambda: [peer.send(frame(text)) for text in texts], daemon=True)
        writer.start()
        for number in range(5):
            far.send(Ping(payload=b"%d" % number))
            far.read_until(lambda least=number: len(far.texts()) > least, "one more message has come")
        far.read_until(lambda: len(far.of(Pong)) == 5 and len(far.texts()) == 5, "all of it has come")
        writer.join(10)
        assert far.texts() == texts
        assert [bytes(pong.payload) for pong in far.of(Pong)] == [b"%d" % number for number in range(5)]
        assert not far.of(CloseConnection)


def test_ping_is_answered_while_nothing_is_sent() -> None:
    with connected() as (_, far):
        far.send(Ping(payload=b"?"))
        far.read_until(lambda: far.of(Pong), "the ping is answered")


def test_peer_that_closes_ends_receiving_and_sending() -> None:
    with connected() as (peer, far):
        far.send(TextMessage(data="last"))
        far.send(CloseConnection(code=4000, reason="enough"))
        assert received(peer, 1) == ["last"], "what it had said before is still heard"
        assert ended(peer) == "closed with 4000: enough"
        with pytest.raises(PeerGone):
            peer.send(frame("x"))


@pytest.mark.parametrize("reset", [False, True])
def test_peer_that_disconnects_makes_send_raise(reset: bool) -> None:
    with connected() as (peer, far):
        if reset:
            far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.sock.close()
        ended(peer)
        with pytest.raises(PeerGone):
            peer.send(frame("x"))


def test_close_sends_code_and_reason_once() -> None:
    with connected() as (peer, far):
        peer.close(websocket.GOING_AWAY, "é" * 200)
        peer.close(websocket.GOING_AWAY, "again")
        far.read_until(lambda: far.of(CloseConnection), "the close frame has come")
        (close,) = far.of(CloseConnection)
        assert close.code == 1001
        assert close.reason == "é" * 60
        with pytest.raises(PeerGone):
            list(peer.received())


def test_blocked_send_ends_when_the_peer_is_killed() -> None:
    with connected(small=True) as (peer, _):
        ends: list[str] = []

        def write() -> None:
            try:
                while True:
                    peer.send(frame("x" * 1_000_000))
            except PeerGone:
                ends.append("gone")

        writer = Thread(target=write, daemon=True)
        writer.start()
        wait_until(lambda: peer._wire._lock.locked(), "a send is under way")
        peer.kill()
        writer.join(10)
        assert ends == ["gone"]


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "no mask": b"\x81\x05hello",
    "reserved bits": b"\xf1\x80\x00\x00\x00\x00",
    "unknown opcode": b"\x83\x80\x00\x00\x00\x00",
    "broken UTF-8": b"\x81\x82\x00\x00\x00\x00\xff\xff",
    "split broken UTF-8": b"\x01\x81\x00\x00\x00\x00\xc3\x80\x81\x00\x00\x00\x00A",
    "a continuation of nothing": b"\x80\x80\x00\x00\x00\x00",
    "a long ping": b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + b"x" * 126,
    "half a ping": b"\x09\x80\x00\x00\x00\x00",
    "a close of one byte": b"\x88\x81\x00\x00\x00\x00x",
    "a bad close code": b"\x88\x82\x00\x00\x00\x00\x00\x01",
    "a huge length": b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
    "after its close": b"\x88\x80\x00\x00\x00\x00\x81\x80\x00\x00\x00\x00",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_ends_its_own_connection_only(garbage: bytes) -> None:
    with connected() as (good, good_far), connected() as (bad, bad_far):
        bad_far.sock.sendall(garbage)
        ended(bad)
        good_far.send(TextMessage(data="still here"))
        assert received(good, 1) == ["still here"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_too_long_message_ends_its_own_connection_only(pieces: int) -> None:
    with connected() as (good, good_far), connected() as (bad, bad_far):
        piece = "x" * (websocket.MAX_MESSAGE_BYTES // pieces + 1)
        with suppress(OSError):  # the server may close before it has read all of it
            for number in range(pieces):
                bad_far.send(TextMessage(data=piece, message_finished=number == pieces - 1))
        ended(bad)
        with suppress(OSError):
            bad_far.read_until(lambda: bad_far.of(CloseConnection), "it says why")
            assert bad_far.of(CloseConnection)[0].code == 1009
        good_far.send(TextMessage(data="x" * websocket.MAX_MESSAGE_BYTES))
        assert received(good, 1) == ["x" * websocket.MAX_MESSAGE_BYTES]


def test_message_length_is_limited_in_bytes() -> None:
    """simple_websocket counts characters; 4,000 of these are 16 kB."""
    with connected() as (peer, far):
        far.send(TextMessage(data="\U0001f600" * (websocket.MAX_MESSAGE_BYTES - 96)))
        wait_until(lambda: peer._ws.input_buffer, "it has come")
        with pytest.raises(PeerProtocolError, match="4096 bytes"):
            list(peer.received())


def test_received_bytes_in_memory_are_bounded() -> None:
    for size in (0, 1, 125, 4000):
        with connected() as (peer, far):
            far.sock.settimeout(1)
            talk = memoryview(
                far._ws.send(TextMessage(data="x" * size)) * (2 * websocket.MAX_WAITING_BYTES // (size + 6))
            )
            with suppress(TimeoutError):
                while talk:
                    talk = talk[far.sock.send(talk[:4096]) :]
            waiting = websocket.MAX_WAITING_BYTES + 4096
            wait_until(lambda peer=peer: peer._wire._received >= websocket.MAX_WAITING_BYTES, "it listens no more")
            assert sum(len(message) + 6 for message in peer._ws.input_buffer) <= waiting


@pytest.mark.parametrize("name", ["sec-websocket-extensions", "sec_websocket_extensions", "x-anything", "accept"])
def test_only_the_headers_of_the_handshake_are_passed_on(name: str) -> None:
    near, sock = loopback()
    with near, sock:
        far = Far(sock)
        peer = Peer(near, {**far.headers, name: "permessage-deflate"}, "session-1")
        far.read_until(lambda: far.of(AcceptConnection), "the handshake is answered")
        assert not far.of(AcceptConnection)[0].extensions
        assert set(peer._ws.environ) <= {
            "werkzeug.socket",
            "REQUEST_METHOD",
            *("HTTP_" + each.upper().replace("-", "_") for each in websocket._HANDSHAKE_HEADERS),
        }
        peer.kill()


def test_peer_that_sends_without_end_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session receives nothing meanwhile, as in an initial sync or a blocked send."""
    monkeypatch.setattr(websocket, "MAX_WAITING_BYTES", 10_600)  # 100 messages with their frames
    with connected(small=True) as (peer, far):
        far.sock.settimeout(2)
        talk = memoryview(far._ws.send(TextMessage(data="x" * 100)) * 10_000)

        def talk_on(rest: memoryview) -> None:
            while rest:
                rest = rest[far.sock.send(rest[:4096]) :]

        with pytest.raises(TimeoutError):  # otherwise 1 MB has been received
            talk_on(talk)
        assert len(received(peer, 100)) >= 100, "and it is heard again when the session is back"


def test_paused_messages_are_all_received_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MAX_WAITING_BYTES", 2000)
    with connected() as (peer, far):
        talk = b"".join(far._ws.send(TextMessage(data=str(number))) for number in range(5000))
        speaker = Thread(target=far.sock.sendall, args=(talk,), daemon=True)
        speaker.start()
        assert received(peer, 5000) == [str(number) for number in range(5000)]
        speaker.join(10)
