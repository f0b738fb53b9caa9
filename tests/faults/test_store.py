"""The watermark store killed, lost, corrupt or on a full disk: no change is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.load import MAPPINGS, SCHEMA, load, received
from tests.faults.tally import Tally, pick
from tests.support.chance import chance
from tests.support.daemon import run_zmsd
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from zmsd.position import lexi
from zmsd.watermarks.base import Replica
from zmsd.watermarks.sqlite import SqliteStore

_WRITE = """
import itertools, sys
from pathlib import Path
from zmsd.watermarks.sqlite import SqliteStore
from zmsd.position import lexi
from zmsd.watermarks.base import CopyRecord, Identity, Replica
store = SqliteStore(Path(sys.argv[1]))
print("open", flush=True)
for number in itertools.count():
    mark = lexi(12**12 + number)
    store.record_checkpoint(mark, "82" * 50)
    replica = Replica("zero", number % 50, "00")
    store.record_copy(replica, CopyRecord(mark, mark, "edition"))
    store.record_ack(replica, mark)
    store.save_identity(Identity("set", {f"c{one}": str(number) for one in range(50)}))
    print(number, flush=True)
"""


def test_store_opens_intact_after_kill_while_writing(tmp_path: Path, tally: Tally) -> None:
    """The store has everything that was written before the kill, except perhaps the last write."""
    rng = chance(14)
    file = tmp_path / "watermarks.db"
    for _ in range(pick(15, 200)):
        with subprocess.Popen([sys.executable, "-c", _WRITE, file], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            written = -1
            assert process.stdout.readline() == "open\n"
            for _ in range(rng.randrange(60)):
                written = int(process.stdout.readline())
            process.kill()
        with closing(sqlite3.connect(file)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        with closing(SqliteStore(file)) as store:
            if written >= 0:
                record = store.replica(Replica("zero", written % 50, "00"))
                assert record is not None
                assert record.copies[-1].watermark >= lexi(12**12 + written)
        tally.survived += 1


CORRUPT = {
    "empty": b"",
    "text": b"not a database at all" * 1000,
    "noise": b"SQLite format 3\0" + os.urandom(20_000),
    "pages": None,  # some of them overwritten
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT.keys())
def test_corrupt_store_fails_the_start_with_one_line(
    content: bytes | None, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """The line names the file and what to do; after that everything continues where it was."""
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    file = zmsd.directory / "watermarks.db"
    with load(loaded, client, tally=tally, threads=1):
        received(client)
        zmsd.stop()
        for log in (f"{file}-wal", f"{file}-shm"):
            Path(log).unlink(missing_ok=True)
        if content is None:
            with file.open("r+b") as pages:
                pages.seek(1024)
                pages.write(os.urandom(file.stat().st_size - 1024))
        else:
            file.write_bytes(content)
        tally.survived += 1
        before = len(zmsd.stderr().splitlines())
        zmsd.launch()
        if content == b"":  # as good as none
            received(client)
            return
        assert zmsd.wait_exit() == 1
        lines = [line for line in zmsd.stderr().splitlines()[before:] if "INFO" not in line]
        assert len(lines) == 1, lines
        assert "watermarks.db" in lines[0]
        assert "move the file away" in lines[0]
        file.rename(f"{file}.away")
        zmsd.start()
        received(client)


def test_full_disk_while_streaming_loses_nothing(
    tmp_path: Path, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """Streaming continues; what cannot be stored is logged, and not repeatedly."""
    disk = tmp_path / "disk"
    with small_disk(disk):
        zmsd = serve(SCHEMA, MAPPINGS, settings={"watermarks": {"path": str(disk / "watermarks.db")}})
        client = follow(zmsd)
        with load(loaded, client, tally=tally, threads=1):
            received(client)
            fill(disk)
            tally.survived += 1
            zmsd.wait_log("watermark store.*make room", 60)
            assert "make room" in zmsd.get("/readyz")[1]
            assert "zmsd_store_ready 0\n" in zmsd.get("/metrics")[1], "what the shipped alert ZmsdStoreNotReady asks"
            assert "make room" in json.loads(zmsd.get("/status.json")[1])["store_trouble"]
            config = ("--config", str(zmsd.config_file))
            shown = run_zmsd("status", *config, cwd=tmp_path).stdout
            assert re.search("the watermark store cannot be written.*make room", shown)
            checked = run_zmsd("check", *config, cwd=tmp_path)
            assert checked.returncode == 1
            assert re.search("error: store: .*free some space", checked.stdout)
            received(client, 20)
            assert len(zmsd.log("make room")) < 5
            (disk / "filler").unlink()
            zmsd.wait_log("recovered", 60)
            received(client)
            wait_until(lambda: "zmsd_store_ready 1\n" in zmsd.get("/metrics")[1], "the store is ready", 60)
        assert not client.closings


def test_full_disk_at_start_fails_with_one_line(tmp_path: Path, loaded: Db, serve: Serve) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk):
        fill(disk)
        zmsd = serve(SCHEMA, MAPPINGS, settings={"watermarks": {"path": str(disk / "watermarks.db")}}, start=False)
        zmsd.launch()
        assert zmsd.wait_exit() == 1
        lines = [line for line in zmsd.stderr().splitlines() if "INFO" not in line]
        assert len(lines) == 1, lines
        assert "make room" in lines[0]


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    directory.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(directory)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True).returncode != 0:
        pytest.skip("no file system of its own can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


def test_file_size_limit_while_streaming_loses_nothing(loaded: Db, serve: Serve, follow: Follow, tally: Tally) -> None:
    """A limit on the size of files acts as a full disk where none can be mounted; stderr must not exceed it either."""
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    size = max(file.stat().st_size for file in zmsd.directory.iterdir())
    resource.prlimit(zmsd.pid, resource.RLIMIT_FSIZE, (size, size))
    with load(loaded, client, tally=tally, threads=1):
        received(client, 40)
        tally.survived += 1
    assert not client.closings


def test_second_daemon_on_the_same_store_is_refused(loaded: Db, serve: Serve, follow: Follow, tally: Tally) -> None:
    """The first daemon continues; when it is killed, no lock remains that must be removed."""
    first = serve(SCHEMA, MAPPINGS)
    client = follow(first)
    path = str(first.directory / "watermarks.db")
    second = serve(SCHEMA, MAPPINGS, settings={"watermarks": {"path": path}}, start=False)
    with load(loaded, client, tally=tally):
        second.launch()
        assert second.wait_exit() == 1
        (line,) = second.stderr().splitlines()
        assert line == (
            f"error: watermark store {path} is used by another zmsd that runs: end that, or give each one a file of "
            "its own (watermarks.path)"
        )
        received(client, 20)
        first.kill()
        first.start()
        received(client, 20)
    tally.survived += 1
