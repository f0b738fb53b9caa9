"""The gateway's answers: pages, refusals, and clients that misbehave."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.websocket import Closed, Refused, WebSocket

STREAM = "/changes/v0/stream"
INITIAL = f"{STREAM}?appID=zero&shardNum=0"


@pytest.fixture
def zmsd(serve: Serve) -> ZmsdProcess:
    return serve(SCHEMA, MAPPINGS)


def refused(zmsd: ZmsdProcess, target: str, headers: dict[str, str] | None = None) -> Refused:
    """Return the refusal of an attempt to open a WebSocket."""
    socket = WebSocket(zmsd.port)
    try:
        with pytest.raises(Refused) as refusal:
            socket.upgrade(target, headers or {})
    finally:
        socket.abort()
    return refusal.value


def test_pages_answer_with_their_content(zmsd: ZmsdProcess) -> None:
    assert zmsd.get("/healthz")[0] == 200
    assert zmsd.get("/readyz")[0] == 200
    status, body = zmsd.get("/")
    page = json.loads(body)
    assert status == 200
    assert page["name"] == "zmsd"
    assert page["version"]
    assert "v0" in page["protocol"]
    assert set(page["tables"]) == set(SCHEMA)
    assert json.loads(zmsd.get("/health")[1]) == {"status": "ok"}
    found = json.loads(zmsd.get("/metadata/status")[1])
    assert (found["status"], found["schemaLoaded"], found["tablesCount"]) == ("healthy", True, len(SCHEMA))


def test_unknown_path_is_404_with_reason(zmsd: ZmsdProcess) -> None:
    status, body = zmsd.get("/nothing/here")
    assert status == 404
    assert "/nothing/here" in body
    for path in ("/changes/v1/stream?appID=zero&shardNum=0", "/"):
        assert refused(zmsd, path).status == 404
    zmsd.wait_log(f"no WebSocket at /changes/v1/stream: use {INITIAL.partition('?')[0]}")
    assert len(zmsd.log("no WebSocket at")) == 1, "later refusals of a kind are counted"


def test_stream_without_websocket_is_426_with_reason(zmsd: ZmsdProcess) -> None:
    status, body = zmsd.get(INITIAL)
    assert status == 426
    assert "WebSocket" in body


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("", "appID"),
        ("?shardNum=0", "appID"),
        ("?appID=zero", "shardNum"),
        ("?appID=zero&shardNum=x", "shardNum"),
        ("?appID=zero&shardNum=-1", "shardNum"),
        ("?appID=ze%20ro&shardNum=0", "appID"),
    ],
)
def test_bad_query_is_400_and_names_the_parameter(zmsd: ZmsdProcess, query: str, named: str) -> None:
    refusal = refused(zmsd, STREAM + query)
    assert refusal.status == 400
    assert named in refusal.body


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("&lastWatermark=abc&replicaVersion=00", "lastWatermark 'abc'"),
        ("&lastWatermark=00&replicaVersion=%21", "replicaVersion '!'"),
    ],
)
def test_foreign_watermark_gets_reset_required(zmsd: ZmsdProcess, query: str, named: str) -> None:
    """HTTP 400 would end zero-cache at each start; after reset-required it makes a new replica."""
    with contextlib.closing(WebSocket(zmsd.port)) as peer:
        peer.upgrade(INITIAL + query, {})
        message = json.loads(peer.receive())
    assert message[1]["tag"] == "reset-required"
    assert f"{named} is not a watermark of zmsd" in json.dumps(message[1])


def test_wrong_or_missing_token_is_401_after_a_second(database: Db, serve: Serve, follow: Follow) -> None:
    """zero-cache has no backoff: the delay keeps it from trying 300 times in ten seconds."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"token": ["right", "also-right"]}})
    basic = {"Authorization": "Basic " + base64.b64encode(b"zero:swordfish").decode()}
    for target, headers in (
        (INITIAL, {}),
        (INITIAL, basic),
        (f"{INITIAL}&token=swordfish", {}),
        (f"{INITIAL}&token=", {}),
    ):
        start = time.monotonic()
        refusal = refused(zmsd, target, headers)
        assert refusal.status == 401
        assert time.monotonic() - start > 0.9
        assert "right" not in refusal.body
    right = {"Authorization": "Basic " + base64.b64encode(b"zero:right").decode()}
    follow(zmsd, headers=right)
    follow(zmsd, query={"token": "also-right"})
    assert zmsd.get("/healthz")[0] == 200, "a monitor needs no token"
    assert "swordfish" not in zmsd.stderr(), "what was offered is not logged"


def test_unknown_query_parameters_are_ignored(zmsd: ZmsdProcess, follow: Follow) -> None:
    """zero-cache adds publications=, and keeps the parameters of the configured address."""
    follow(zmsd, query={"publications": "a", "whatever": "1"})


GARBAGE: dict[str, bytes | str] = {
    "text that is not JSON": "hello",
    "JSON that is not a message": "{}",
    "an unknown message": '["hello",{}]',
    "an ack without a watermark": '["status",{"tag":"commit"},{}]',
    "an ack of a watermark that is none": '["status",{"tag":"commit"},{"watermark":"!"}]',
    "nested too deeply": "[" * 100_000,
    "bytes that are not a frame": b"\xff" * 100,
    "an unmasked frame": b"\x81\x05hello",
    "a binary frame": b"\x82\x80\0\0\0\0",
    "text that is not UTF-8": b"\x81\x82\0\0\0\0\xff\xff",
    "a close frame without sense": b"\x88\x81\0\0\0\0\x01",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_client_that_sends_garbage_loses_only_its_own_connection(
    garbage: bytes | str, database: Db, zmsd: ZmsdProcess, follow: Follow
) -> None:
    good = follow(zmsd)
    bad = follow(zmsd, app="bad")
    assert bad._socket is not None
    if isinstance(garbage, str):
        bad._socket.send(garbage)
    else:
        bad._socket.send_raw(garbage)
    wait_until(lambda: bad.closings, "its connection is closed")
    database.users.insert_one({"_id": "ann"})
    good.wait_rows("user", 1)
    assert not good.closings
    bad.wait_rows("user", 1)  # as a new connection, it is served again


def test_client_that_disconnects_during_initial_sync_harms_no_other(
    database: Db, zmsd: ZmsdProcess, follow: Follow
) -> None:
    database.users.insert_many([{"_id": f"u{number}", "name": "x" * 1000} for number in range(20_000)])
    for _ in range(3):
        socket = WebSocket(zmsd.port, receive_buffer=4096)
        socket.upgrade(INITIAL, {})
        socket.receive()
        socket.abort()
    assert len(follow(zmsd).rows("user")) == 20_000


def test_silent_connections_do_not_block_others_and_are_dropped(zmsd: ZmsdProcess, follow: Follow) -> None:
    silent = [WebSocket(zmsd.port) for _ in range(30)]
    try:
        follow(zmsd)
        with pytest.raises(Closed):
            silent[0].receive()
    finally:
        for socket in silent:
            socket.abort()


def test_connection_that_is_not_http_is_reset_at_once(zmsd: ZmsdProcess) -> None:
    """zero-cache 0.25 first tries its upstream as a Postgres, and starts only when that has failed."""
    with socket.create_connection(("127.0.0.1", zmsd.port), timeout=5) as postgres:
        postgres.sendall(bytes.fromhex("0000000804d2162f"))  # SSLRequest
        with pytest.raises(ConnectionResetError):
            postgres.recv(1)


def commits(stream: WebSocket, count: int) -> list[str]:
    """Receive that many commits without acknowledging any, and return their watermarks."""
    found: list[str] = []
    while len(found) < count:
        for message in json.loads(f"[{stream.receive()}]"):
            if message[0] == "commit":
                found.append(message[2]["watermark"])
    return found


def stream_of(zmsd: ZmsdProcess, client: ChangeSourceClient) -> WebSocket:
    """Open a stream that begins at the initial sync of a client that has closed its own."""
    version = client.replica.version
    stream = WebSocket(zmsd.port)
    stream.upgrade(f"{INITIAL}&lastWatermark={version}&replicaVersion={version}", {})
    return stream


def single_commits(database: Db, stream: WebSocket, count: int) -> list[str]:
    """Insert that many users one after the other, so that each is sent alone, and return the watermarks."""
    found: list[str] = []
    for number in range(count):
        database.users.insert_one({"_id": f"u{number}"})
        found += commits(stream, 1)
    return found


def test_stream_without_acknowledgement_repeats_the_same_commits(
    database: Db, zmsd: ZmsdProcess, follow: Follow
) -> None:
    """A commit that is sent again has its old watermark: zero-cache's replica may have a commit that its change log
    lacks, and is refused for ever unless the change log gets a commit at that watermark."""
    client = follow(zmsd)
    client.close()
    stream = stream_of(zmsd, client)
    first = single_commits(database, stream, 10)
    stream.abort()
    for number in range(10, 20):
        database.users.insert_one({"_id": f"u{number}"})
    stream = stream_of(zmsd, client)
    assert commits(stream, 10) == first
    stream.close()
    client = follow(zmsd, replica=client.replica)
    client.wait_rows("user", 20)


@contextlib.contextmanager
def writes(database: Db) -> Iterator[None]:
    """Let the oplog go on, though not for zmsd."""
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.1):
            database.other.insert_one({})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def test_stream_after_kill_repeats_the_commits_of_the_killed_process(
    database: Db, serve: Serve, follow: Follow
) -> None:
    """As when zmsd and zero-cache are killed while zero-cache's replica is ahead of its change log."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"heartbeat": 1}})
    client = follow(zmsd)
    client.close()
    stream = stream_of(zmsd, client)
    first = single_commits(database, stream, 5)
    with writes(database):  # to another collection
        first += commits(stream, 2)  # heartbeats
    zmsd.kill()
    stream.close()
    database.users.insert_many([{"_id": f"u{number}"} for number in range(5, 20)])
    zmsd.start()
    stream = stream_of(zmsd, client)
    again: list[str] = []
    while not again or again[-1] < first[-1]:
        again += commits(stream, 1)
    stream.close()
    assert set(first) <= set(again)
    client = follow(zmsd, replica=client.replica)
    client.wait_rows("user", 20)
