"""The log as systemd's journal gets it: a priority before every line, and JSON if wanted."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.daemon import ZmsdProcess
from tests.support.manager import ServiceManager
from tests.support.mongod import ReplicaSet
from tests.support.types import Db, Follow


def journaled(
    directory: Path, uri: str, stack: contextlib.ExitStack, settings: dict[str, Any] | None = None
) -> ZmsdProcess:
    """Run a zmsd whose stderr is the journal's, according to the environment that systemd sets."""
    zmsd = stack.enter_context(ZmsdProcess(directory, uri, SCHEMA, MAPPINGS, settings=settings))
    zmsd.stderr_file.touch()
    stat = zmsd.stderr_file.stat()
    zmsd.environment["JOURNAL_STREAM"] = f"{stat.st_dev}:{stat.st_ino}"
    return zmsd.start()


def live_through(zmsd: ZmsdProcess, database: Db, follow: Follow) -> None:
    """Log a line of every level, and a message of many lines."""
    database.users.insert_one({"_id": "ann", "name": {"first": "Ann"}})
    follow(zmsd).close()
    zmsd.wait_log("rejected")
    zmsd.write(mappings={"nothing": {"collection": "x"}})
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("reload refused")
    zmsd.signal(signal.SIGUSR1)
    zmsd.wait_log("log_bytes")
    assert zmsd.stop() == 0


def test_each_journal_line_has_a_priority(
    database: Db, replica_set: ReplicaSet, tmp_path: Path, stack: contextlib.ExitStack, follow: Follow
) -> None:
    zmsd = journaled(tmp_path, replica_set.uri(database.name), stack)
    live_through(zmsd, database, follow)
    lines = zmsd.stderr().splitlines()
    assert all(re.match(r"<[2-7]>", line) for line in lines)
    for text, priority in (
        (r"zmsd starts version=\S+ database=\S+$", 6),
        (r"listening address=127.0.0.1:\d+$", 6),
        (r"session begins session=\d+ app=zero shard=0 address=127.0.0.1 last_watermark=null$", 6),
        (r'rejected table=user reason="object in string column name" effect="value sent as null" id=ann$', 4),
        (r"reload refused error=", 3),
        (r"stack of thread dispatcher:$", 6),
        (r'  File ".*/zmsd/mongodb/feed.py", line \d+, in read$', 6),
        (r"zmsd stopped$", 6),
    ):
        assert [line for line in lines if re.match(f"<{priority}>{text}", line)], f"<{priority}>{text}"
    assert not [line for line in lines if re.search(r"\d\d:\d\d:\d\d|MainThread:", line) and "stack of" not in line]


def test_json_journal_lines_have_priority_and_fields(
    database: Db, replica_set: ReplicaSet, tmp_path: Path, stack: contextlib.ExitStack, follow: Follow
) -> None:
    zmsd = journaled(tmp_path, replica_set.uri(database.name), stack, {"log": {"format": "json"}})
    live_through(zmsd, database, follow)
    records = []
    for line in zmsd.stderr().splitlines():
        priority, text = line[:3], line[3:]
        record = json.loads(text)
        assert priority == {"info": "<6>", "warning": "<4>", "error": "<3>"}[record["level"]]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
        assert record["logger"].startswith("zmsd.")
        records.append(record)
    (begins,) = [record for record in records if record["message"] == "session begins" and not record["last_watermark"]]
    assert begins["app"] == "zero"
    assert begins["shard"] == 0
    assert begins["thread"].startswith("session-")
    assert [record for record in records if record["message"].startswith("stack of thread dispatcher:\n")]
    assert records[-1]["message"] == "zmsd stopped"


def test_log_format_changes_on_reload(
    database: Db, replica_set: ReplicaSet, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    zmsd = journaled(tmp_path, replica_set.uri(database.name), stack)
    zmsd.write(settings={"log": {"format": "json"}})
    zmsd.signal(signal.SIGHUP)
    (line,) = zmsd.wait_log("reloaded")
    assert json.loads(line.removeprefix("<6>"))["tables"] == len(SCHEMA)


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("wrong", ["settings", "document", "port"])
def test_start_errors_have_their_priority_and_format(
    log_format: str, wrong: str, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    zmsd = stack.enter_context(ZmsdProcess(tmp_path, "mongodb://127.0.0.1:1/db?replicaSet=rs0", SCHEMA, MAPPINGS))
    settings: dict[str, dict[str, Any]] = {"log": {"format": log_format, "level": "error"}}
    if wrong == "settings":
        settings["feed"] = {"heartbeat": -1}
    elif wrong == "document":
        zmsd.write(mappings={"nothing": {"collection": "x"}})
    else:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        settings["server"] = {"port": taken.getsockname()[1]}
    zmsd.write(settings=settings)
    zmsd.stderr_file.touch()
    stat = zmsd.stderr_file.stat()
    zmsd.environment["JOURNAL_STREAM"] = f"{stat.st_dev}:{stat.st_ino}"
    zmsd.launch()
    assert zmsd.wait_exit() == (1 if wrong == "port" else 78)
    (line,) = zmsd.stderr().splitlines()
    assert line.startswith("<3>")
    expected = {"settings": "feed.heartbeat: must be", "document": "nothing", "port": "the port is in use"}[wrong]
    if log_format == "json":
        record = json.loads(line.removeprefix("<3>"))
        assert (record["level"], record["message"]) == ("error", "start failed")
        assert expected in record["error"]
    else:
        assert expected in line


def test_start_error_of_a_file_that_is_not_yaml_has_a_priority(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    zmsd = stack.enter_context(ZmsdProcess(tmp_path, "mongodb://127.0.0.1:1/db", SCHEMA))
    zmsd.config_file.write_text("log: {format: json")
    zmsd.stderr_file.touch()
    stat = zmsd.stderr_file.stat()
    zmsd.environment["JOURNAL_STREAM"] = f"{stat.st_dev}:{stat.st_ino}"
    zmsd.launch()
    assert zmsd.wait_exit() == 78
    assert all(line.startswith("<3>") for line in zmsd.stderr().splitlines())


def test_failed_start_is_delayed_under_systemd(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """RestartSec is 100 ms."""
    taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    manager = stack.enter_context(ServiceManager())
    settings = {"server": {"port": taken.getsockname()[1]}}
    zmsd = stack.enter_context(ZmsdProcess(tmp_path, "mongodb://127.0.0.1:1/db", SCHEMA, settings=settings))
    zmsd.environment.update(manager.environment)
    begun = time.monotonic()
    zmsd.launch()
    zmsd.wait_log("the port is in use")
    assert zmsd.wait_exit() == 1
    assert time.monotonic() - begun >= 5
    # a configuration error is final: zmsd exits at once
    zmsd.write(settings={"feed": {"heartbeat": -1}})
    begun = time.monotonic()
    zmsd.launch()
    assert zmsd.wait_exit() == 78
    assert not manager.messages
