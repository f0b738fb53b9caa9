"""Why no mongod can be started, in words. Every integration test starts one."""

from __future__ import annotations

import importlib.util
import json
import socket
import stat
from pathlib import Path

import pytest

from zmsd.demo.mongod import Mongod, explain, find_binary, free_port
from zmsd.errors import MongodError


def program(file: Path, text: str = "") -> Path:
    """Write a shell script."""
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def test_program_of_the_environment_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMSD_MONGOD", str(program(tmp_path / "own")))
    assert find_binary() == tmp_path / "own"
    monkeypatch.setenv("ZMSD_MONGOD", str(tmp_path / "none"))
    with pytest.raises(MongodError, match="ZMSD_MONGOD: .*none is not an executable file"):
        find_binary()


def test_program_on_the_path_is_taken_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMSD_MONGOD", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MongodError, match="no mongod found"):
        find_binary()
    program(tmp_path / "mongod")
    assert find_binary() == tmp_path / "mongod"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object file",
            "mongod needs the library libcurl.so.4: apt-get install libcurl4, or give --uri",
        ),
        (
            "mongod: error while loading shared libraries: libx.so: cannot open",
            "mongod needs the library libx.so: install its package, or give --uri",
        ),
        (
            "mongod: /lib/libc.so.6: version `GLIBC_2.35' not found (required by mongod)",
            "mongod needs a newer system (GLIBC_2.35): give --uri with a MongoDB of yours",
        ),
        (
            "Error parsing command line: unknown option",
            "mongod ended with status 2: Error parsing command line: unknown option",
        ),
        (
            "\n".join(
                json.dumps({"s": level, "msg": text, "attr": {"error": "full"}})
                for level, text in (("I", "starting"), ("E", "cannot write"), ("F", "aborting"))
            ),
            'mongod ended with status 2: cannot write {"error": "full"}',
        ),
        (json.dumps({"s": "I", "msg": "starting"}), "mongod ended with status 2"),
        ("", "mongod ended with status 2"),
    ],
)
def test_end_of_a_mongod_is_explained_in_one_line(output: str, reason: str) -> None:
    assert explain(2, output) == reason


def test_mongod_that_ends_at_once_is_an_error_with_its_output(tmp_path: Path) -> None:
    mongod = Mongod(tmp_path)
    mongod.binary = program(tmp_path / "mongod", "echo no space left; exit 100")
    with pytest.raises(MongodError, match="mongod ended with status 100: no space left"):
        mongod.start()
    assert mongod.pid is None


def test_program_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    mongod = Mongod(tmp_path)
    mongod.binary = tmp_path / "none"
    with pytest.raises(MongodError, match="does not run on this system .* give --uri"):
        mongod.start()
    mongod.stop()


def test_free_port_can_be_bound() -> None:
    socket.create_server(("127.0.0.1", free_port())).close()


def test_uri_names_the_replica_set() -> None:
    mongod = Mongod(Path())
    mongod.port = 1
    assert mongod.uri("chat") == "mongodb://127.0.0.1:1/chat?replicaSet=rs0"
