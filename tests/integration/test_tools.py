"""``zmsd tail`` and ``zmsd status`` against running daemons, the help, and readers that close early."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA, create_collections
from tests.support.certificates import ONE
from tests.support.daemon import ROOT, ZmsdProcess, run_zmsd, start_zmsd
from tests.support.stub import StubSource, create_table, frames, relation, required_tables, transaction
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR, wait_until
from zmsd import cli

(SUBPARSERS,) = (action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
COMMANDS = tuple(SUBPARSERS.choices)


class Command:
    """Runs a command until it is ended, with its output in a file."""

    def __init__(self, name: str, directory: Path, *arguments: str, **environment: str) -> None:
        self.output = directory / name
        with self.output.open("wb") as output:
            self.process = start_zmsd((name, *arguments), directory, environment, output, output)

    def wait_for(self, pattern: str) -> None:
        wait_until(lambda: re.search(pattern, self.text()), f"tail says {pattern!r}", 20)

    def text(self) -> str:
        return self.output.read_text()

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(10 * FACTOR)


@contextmanager
def tail(directory: Path, *arguments: str, **environment: str) -> Iterator[Command]:
    with command("tail", directory, *arguments, **environment) as process:
        yield process


@contextmanager
def command(name: str, directory: Path, *arguments: str, **environment: str) -> Iterator[Command]:
    process = Command(name, directory, *arguments, **environment)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()
        assert "Traceback" not in process.text(), process.text()


def test_tail_shows_initial_sync_and_stream(database: Db, serve: Serve, follow: Follow, tmp_path: Path) -> None:
    database.users.insert_many([{"_id": f"u{n}", "name": "x"} for n in range(10)])
    zmsd = serve(SCHEMA, MAPPINGS)
    beside = follow(zmsd)
    with tail(tmp_path, f"ws://127.0.0.1:{zmsd.port}") as shown:
        shown.wait_for(r"rows/s: .*user 10")
        shown.wait_for(r"initial sync complete at watermark \w+")
        database.users.insert_one({"_id": "ann", "name": "Ann"})
        shown.wait_for(r'\+ user .*"ann"')
        database.users.delete_one({"_id": "ann"})
        shown.wait_for(r'- user .*"ann"')
        assert shown.end() == 0
        assert "ended after" in shown.text()
    beside.wait_watermark(beside_now(database))
    assert not beside.closings, "it is another client than zero-cache"


def beside_now(database: Db) -> Any:
    return database.command("ping")["operationTime"]


def test_tail_from_a_watermark_shows_later_changes_only(
    database: Db, serve: Serve, follow: Follow, tmp_path: Path
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    database.users.insert_one({"_id": "ann"})
    client.wait_rows("user", 1)
    watermark = client.replica.watermark
    database.users.insert_one({"_id": "bob"})
    with tail(tmp_path, f"127.0.0.1:{zmsd.port}", "--last-watermark", watermark) as shown:
        shown.wait_for(r'\+ user .*"bob"')
        assert "ann" not in shown.text()
        assert "copy" not in shown.text()


def test_conformance_passes_for_zmsd(database: Db, serve: Serve, tmp_path: Path) -> None:
    database.users.insert_many([{"_id": f"u{n}", "name": "x"} for n in range(10)])
    zmsd = serve(SCHEMA, MAPPINGS)
    stop = threading.Event()

    def write() -> None:
        for number in itertools.count():
            database.users.insert_one({"_id": f"new{number}"})
            database.users.update_one({"_id": "u1"}, {"$set": {"name": str(number)}})
            if stop.wait(0.05):
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        url = f"ws://127.0.0.1:{zmsd.port}"
        done = run_zmsd("conformance", url, "--seconds", "3", cwd=tmp_path, timeout=120)
    finally:
        stop.set()
        writer.join()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "\n6 passed, 0 failed, 0 skipped\n" in done.stdout


def test_conformance_fails_for_a_source_that_sends_nothing_again(tmp_path: Path) -> None:
    """And that knows nothing of lost positions."""
    item = create_table("item", {"id": "string"}, ["id"])
    row = ["data", {"tag": "insert", "relation": relation("item", ["id"]), "new": {"id": "1"}}]
    with StubSource(frames(transaction(100, [*required_tables("zmsd_conformance"), *item]))) as source:
        source.push(frames(transaction(101, [row])))
        url = f"ws://127.0.0.1:{source.port}"
        done = run_zmsd("conformance", url, "--seconds", "1", "--patience", "2", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    results = {line[6:].partition(":")[0]: line[:4].strip() for line in done.stdout.splitlines()[:6]}
    assert results == {
        "initial sync": "ok",
        "stream": "ok",
        "repetition": "FAIL",
        "acks": "ok",
        "lost position": "FAIL",
        "new initial sync": "FAIL",
    }


def test_tail_fails_when_the_stream_ends(serve: Serve, tmp_path: Path) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    with tail(tmp_path, "--config", str(zmsd.config_file)) as shown:
        shown.wait_for("initial sync complete")
        zmsd.stop()
        assert shown.process.wait(10 * FACTOR) == 1
        assert "error: the stream ended: Connection closed: 1001" in shown.text()


def test_tail_and_status_use_token_and_tls(database: Db, serve: Serve, tmp_path: Path) -> None:
    """--config gives token and certificate; with a URL, give the token, and the system must trust the certificate."""
    settings = {"server": {"tls": ONE.write(tmp_path), "token": ["s3cret", "other"]}}
    zmsd = serve(SCHEMA, MAPPINGS, settings=settings, start=False)
    zmsd.launch()
    zmsd.wait_log("listening")
    with tail(tmp_path, "--config", str(zmsd.config_file)) as shown:
        shown.wait_for("initial sync complete")
        assert "s3cret" not in shown.text()
    trust = {"SSL_CERT_FILE": str(tmp_path / "server.crt")}
    with tail(tmp_path, f"wss://localhost:{zmsd.port}", "--token", "other", **trust) as shown:
        shown.wait_for("initial sync complete")
    with tail(tmp_path, f"wss://me:other@localhost:{zmsd.port}/", **trust) as shown:
        shown.wait_for("initial sync complete")

    def status(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return run_zmsd("status", *arguments, cwd=tmp_path, environment=environment)

    done = status("--config", str(zmsd.config_file))
    assert (done.returncode, done.stderr) == (0, "")
    url = f"https://localhost:{zmsd.port}"
    assert status(url, "--token", "other", environment=trust).returncode == 0
    for arguments, expected in (
        ((url,), "wrong or missing token"),
        ((url, "--token", "wr0ng"), "wrong or missing token"),
        ((f"https://me:wr0ng@localhost:{zmsd.port}",), "wrong or missing token"),
        ((f"https://localhost:{zmsd.port}/?token=wr0ng",), "wrong or missing token"),
    ):
        done = status(*arguments, environment=trust)
        assert done.returncode == 1
        assert expected in done.stderr
        assert "wr0ng" not in done.stderr + done.stdout
    done = status(url, "--token", "other")
    assert done.returncode == 1
    assert "certificate" in done.stderr


def test_tail_that_is_refused_fails_with_one_line(serve: Serve, tmp_path: Path) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"server": {"token": "right"}})
    for url, expected in (
        (f"ws://127.0.0.1:{zmsd.port}", "401, wrong or missing token"),
        (f"ws://me:wr0ng@127.0.0.1:{zmsd.port}", "401, wrong or missing token"),
        (f"ws://127.0.0.1:{zmsd.port}/elsewhere?token=right", "404"),
        ("ws://127.0.0.1:1", "refused"),
        ("ftp://127.0.0.1", "ws://HOST:PORT"),
        ("ws://", "ws://HOST:PORT"),
        ("ws://h:x", "ws://HOST:PORT"),
    ):
        done = run_zmsd("tail", url, cwd=tmp_path)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert expected in done.stderr
        assert "wr0ng" not in done.stderr


def test_status_summarises_the_daemon(database: Db, serve: Serve, follow: Follow, tmp_path: Path) -> None:
    create_collections(database)
    database.users.insert_many([{"_id": f"u{n}", "name": {"no": "text"} if n == 1 else "x"} for n in range(5)])
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd, app="myapp")
    database.rooms.insert_one({"_id": "r1"})
    client.wait_rows("room", 1)
    done = run_zmsd("status", f"http://127.0.0.1:{zmsd.port}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for pattern in (
        r"^zmsd \S+: serving 3 collections to 1 client$",
        rf"^database {database.name}, MongoDB [\d.]+, up .*s, \d+ MiB of memory$",
        r"^position \w+, (up to date|.* behind); oplog headroom ",
        r"^COLLECTION +EVENTS ",
        r"^users +\d+ ",
        r"^messages .*userMessage, systemMessage, imageMessage$",
        r"^myapp/0 +127\.0\.0\.1 +streaming ",
        r"^user +\d+ +.*name",
    ):
        assert re.search(pattern, done.stdout, re.MULTILINE), (pattern, done.stdout)
    report = json.loads(run_zmsd("status", "--json", f"http://127.0.0.1:{zmsd.port}", cwd=tmp_path).stdout)
    assert report["sessions"][0]["app"] == "myapp"


def test_status_watch_shows_the_state_again_and_again(serve: Serve, tmp_path: Path) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    with command("status", tmp_path, f"http://127.0.0.1:{zmsd.port}", "--watch") as shown:
        shown.wait_for(r"(?s)serving 3 collections.*serving 3 collections")
        zmsd.kill()
        shown.wait_for("no answer: .*refused")
        zmsd.start()
        shown.wait_for(r"(?s)no answer.*serving 3 collections")
        assert shown.end() == 130


def test_status_of_an_unready_daemon_fails_with_reason(tmp_path: Path) -> None:
    with ZmsdProcess(tmp_path, "mongodb://127.0.0.1:1/db?replicaSet=rs0", SCHEMA, MAPPINGS).start(ready=False) as zmsd:
        done = run_zmsd("status", "--config", str(zmsd.config_file), cwd=tmp_path)
        assert done.returncode == 1
        assert re.match(r"zmsd \S+: not ready: ", done.stdout)
        assert done.stderr == ""
    done = run_zmsd("status", "--config", str(zmsd.config_file), cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: http://127\.0\.0\.1:\d+ does not answer: .*refused\n", done.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(command: str, tmp_path: Path) -> None:
    done = run_zmsd(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert re.search(rf"^example: zmsd {command}", done.stdout, re.MULTILINE)


def test_help_lists_all_commands(tmp_path: Path) -> None:
    done = run_zmsd("--help", cwd=tmp_path)
    assert re.findall(r"^    ([\w-]+)\b", done.stdout, re.MULTILINE) == list(COMMANDS)


def test_closed_output_pipe_ends_tail_without_traceback(database: Db, serve: Serve, tmp_path: Path) -> None:
    """Close the pipe after the first line, as ``| head -1`` does."""
    database.users.insert_many([{"_id": f"u{n}"} for n in range(10)])
    zmsd = serve(SCHEMA, MAPPINGS)
    for arguments in (["tail"], ["check"], ["status"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "zmsd", *arguments, "--config", str(zmsd.config_file)],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        database.users.insert_one({"name": "one more"})
        try:
            process.wait(20 * FACTOR)
            assert process.stderr.read() == b""
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
