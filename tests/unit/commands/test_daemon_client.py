"""Requests to a running daemon: where it is, and how it is asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import ONE, TWO
from tests.support.endpoint import Endpoint
from tests.support.main_thread import write_settings
from zmsd.commands.daemon_client import Target, duration_text, target
from zmsd.errors import ConfigError, PeerError


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()
    yield served
    served.stop()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:3000", Target("127.0.0.1:3000")),
        ("ws://h:1/base?k=x", Target("h:1", path="/base", query="k=x")),
        ("https://h", Target("h", secure=True)),
        ("wss://user:a%20b@[::1]:5", Target("[::1]:5", secure=True, token="a b")),
        ("http://token@h", Target("h")),
    ],
)
def test_url_names_the_daemon(url: str, expected: Target) -> None:
    assert target(url, None, None, {}) == expected


def test_token_of_the_command_line_is_taken_first() -> None:
    assert target("ws://u:old@h", None, "new", {}).token == "new"


@pytest.mark.parametrize("url", ["ftp://h", "ws://", "ws://h:0", "ws://h:99999", "ws://u:SECRET@:x"])
def test_url_that_is_not_one_is_an_error_without_its_password(url: str) -> None:
    with pytest.raises(PeerError, match="not a valid URL") as wrong:
        target(url, None, None, {})
    assert "SECRET" not in str(wrong.value)


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1:4000"), ("::", "[::1]:4000"), ("db.example", "db.example:4000"), ("::1", "[::1]:4000")],
)
def test_settings_name_the_daemon_on_this_machine(tmp_path: Path, host: str, address: str) -> None:
    file = write_settings(tmp_path, server={"host": host, "port": 4000, "token": ["first", "second"]})
    assert target(None, file, None, {}) == Target(address, token="first")
    assert target(None, file, "given", {}).token == "given"


def test_settings_that_are_not_needed_may_be_wrong(tmp_path: Path) -> None:
    """A token file may be readable for the daemon only."""
    server = {"host": "127.0.0.1", "port": 4000, "token_file": "none"}
    file = write_settings(tmp_path, server=server, feed={"heartbeat": -1})
    assert target(None, file, "given", {}).token == "given"
    with pytest.raises(ConfigError, match="none cannot be read"):
        target(None, file, None, {})


def test_request_has_the_token_and_the_query(endpoint: Endpoint) -> None:
    endpoint.say("/status.json?k=v", b"{\xff}", Server="zmsd")
    found = Target(f"127.0.0.1:{endpoint.port}", query="k=v", token="secret").get("/status.json")
    assert (found.status, found.body) == (200, "{\ufffd}")
    ((path, headers),) = endpoint.requests
    assert path == "/status.json?k=v"
    assert headers["authorization"] == "Bearer secret"


def test_daemon_that_does_not_answer_is_named_without_the_token() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(PeerError, match=f"http://127.0.0.1:{port} does not answer: Connection refused") as gone:
        Target(f"127.0.0.1:{port}", token="SECRET").get("/")
    assert "SECRET" not in str(gone.value) + repr(Target("h", token="SECRET", query="SECRET"))


def test_own_certificate_is_the_only_one_that_is_accepted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    files = ONE.write(tmp_path / "a")
    other = TWO.write(tmp_path / "b")
    for key, name in (("cert", "server.crt"), ("key", "server.key")):
        Path(tmp_path, name).write_text(Path(files[key]).read_text())
    served = Endpoint(tls=tmp_path)
    try:
        served.say("/")
        address = f"127.0.0.1:{served.port}"
        assert Target(address, secure=True, certificate=Path(files["cert"])).get("/").status == 200
        with pytest.raises(PeerError, match="certificate"):
            Target(address, secure=True, certificate=Path(other["cert"])).get("/")
        with pytest.raises(PeerError, match="cannot read a certificate"):
            Target(address, secure=True, certificate=tmp_path / "none").get("/")
    finally:
        served.stop()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (10.4, "10 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 7200, "3 d 2 h"),
    ],
)
def test_duration_is_written_in_two_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
