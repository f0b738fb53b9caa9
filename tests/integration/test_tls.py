"""wss:// and https://, with a certificate that is replaced under a running daemon."""

from __future__ import annotations

import contextlib
import signal
import ssl
from pathlib import Path

import pytest

from tests.integration.chat import COLLECTIONS, MAPPINGS, SCHEMA
from tests.support.certificates import LOCKED_KEY, ONE, TWO, trust
from tests.support.daemon import ZmsdProcess
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.websocket import Closed, WebSocket


@pytest.fixture
def zmsd(database: Db, serve: Serve, tmp_path: Path) -> ZmsdProcess:
    for name in COLLECTIONS:
        database.create_collection(name)
    return serve(SCHEMA, MAPPINGS, settings={"server": {"tls": ONE.write(tmp_path)}}, tls=trust(ONE))


def test_initial_sync_and_stream_over_tls_are_exact(database: Db, zmsd: ZmsdProcess, follow: Follow) -> None:
    """Pings arrive meanwhile: another thread answers them than the one that sends the rows."""
    database.users.insert_many(
        [{"_id": f"u{number}", "name": "x" * 500, "address": {"city": "Ulm"}} for number in range(5000)]
    )
    client = follow(zmsd, tls=trust(ONE))
    assert len(client.rows("user")) == 5000
    for batch in range(20):
        client.ping()
        database.users.insert_many([{"_id": f"b{batch}-{number}", "name": "y" * 5000} for number in range(200)])
    client.wait_rows("user", 9000)
    wait_until(lambda: client.pongs == 20, "every ping is answered")
    assert not client.closings
    assert not zmsd.log("WARNING|ERROR")


def test_slow_reader_over_tls_gets_everything(database: Db, zmsd: ZmsdProcess, follow: Follow) -> None:
    client = follow(zmsd, tls=trust(ONE), receive_buffer=4096)
    client.stop_reading()
    for batch in range(10):
        database.users.insert_many([{"_id": f"b{batch}-{number}", "name": "y" * 20_000} for number in range(50)])
        client.ping()
    client.go_on_reading()
    client.wait_rows("user", 500)
    assert not client.closings


def test_plain_text_or_aborted_tls_connection_harms_no_other(zmsd: ZmsdProcess, follow: Follow) -> None:
    socket = WebSocket(zmsd.port)
    with contextlib.closing(socket), pytest.raises(Closed):
        socket.upgrade("/changes/v0/stream?appID=zero&shardNum=0", {})
    with pytest.raises(ssl.SSLError):
        WebSocket(zmsd.port, tls=trust(TWO))
    for _ in range(3):
        client = follow(zmsd, tls=trust(ONE))
        client.hang_up()
        client.wait_connected(3)
    follow(zmsd, tls=trust(ONE))


def test_stop_with_tls_sessions_is_prompt(zmsd: ZmsdProcess, follow: Follow) -> None:
    client = follow(zmsd, tls=trust(ONE))
    assert zmsd.stop(timeout=10) == 0
    wait_until(lambda: client.closings, "the connection is closed")
    assert client.closings[0].code == 1001


def test_sighup_loads_a_new_certificate(database: Db, zmsd: ZmsdProcess, follow: Follow, tmp_path: Path) -> None:
    """The files have changed, not the settings; connected clients stay connected."""
    first = follow(zmsd, tls=trust(ONE))
    TWO.write(tmp_path)
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("reloaded")
    follow(zmsd, tls=trust(TWO))
    with pytest.raises(ssl.SSLError):
        WebSocket(zmsd.port, tls=trust(ONE))
    database.users.insert_one({"_id": "ann"})
    first.wait_rows("user", 1)
    assert first.connections == 2
    assert not zmsd.log("need a restart")


def test_sighup_switches_tls_on_and_off(serve: Serve, follow: Follow, tmp_path: Path) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    plain = follow(zmsd)
    zmsd.write(settings={"server": {"tls": ONE.write(tmp_path)}})
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("reloaded")
    follow(zmsd, tls=trust(ONE))
    assert not plain.closings
    zmsd.write(settings={"server": {"tls": None}})
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("reloaded", count=2)
    assert zmsd.get("/healthz")[0] == 200


@pytest.mark.parametrize(
    ("cert", "key"),
    [(ONE.cert, TWO.key), (ONE.cert, LOCKED_KEY), ("nothing", ONE.key), (ONE.cert, "")],
    ids=["another key", "a key with a password", "no certificate", "no key"],
)
def test_unusable_certificate_on_reload_changes_nothing(
    cert: str, key: str, zmsd: ZmsdProcess, serve: Serve, follow: Follow, tmp_path: Path
) -> None:
    (tmp_path / "server.crt").write_text(cert)
    (tmp_path / "server.key").write_text(key)
    zmsd.signal(signal.SIGHUP)
    (line,) = zmsd.wait_log("reload refused")
    assert "server.tls" in line
    assert str(tmp_path / "server.crt") in line
    follow(zmsd, tls=trust(ONE))
    tls = {"cert": str(tmp_path / "server.crt"), "key": str(tmp_path / "server.key")}
    other = serve(SCHEMA, MAPPINGS, settings={"server": {"tls": tls}}, start=False)
    other.launch()
    assert other.wait_exit() == 1
    assert len(other.stderr().splitlines()) == 1
    assert "server.tls" in other.stderr()
