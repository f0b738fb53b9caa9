"""A daemon whose main thread is a thread of the test, and whose MongoDB cannot be reached."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from zmsd.config.settings import load
from zmsd.daemon import Daemon
from zmsd.schema.loading import load_documents

UNREACHABLE = "mongodb://127.0.0.1:1/test?serverSelectionTimeoutMS=200"


def write_settings(directory: Path, **sections: Any) -> Path:
    """Write settings, schema and store path into a directory, and return the settings file.

    :param sections: sections that replace those of the same name
    """
    schema = directory / "schema.json"
    if not schema.exists():
        columns = {"id": {"type": "string"}, "text": {"type": "string"}}
        schema.write_text(json.dumps({"tables": {"notes": {"columns": columns, "primaryKey": ["id"]}}}))
    settings = {
        "mongodb": {"uri": UNREACHABLE},
        "schema": {"file": str(schema)},
        "server": {"port": 0},
        "watermarks": {"path": str(directory / "watermarks.db")},
        **sections,
    }
    file = directory / "zmsd.json"
    file.write_text(json.dumps(settings))
    return file


class RunningDaemon:
    """A daemon whose main thread is a thread of the test."""

    def __init__(self, file: Path) -> None:
        settings = load(file, {})
        self.daemon = Daemon(settings, load_documents(settings), file, {})
        self.codes: list[int] = []
        self.thread = Thread(target=lambda: self.codes.append(self.daemon.run()), name="main of the daemon")

    def join(self) -> int:
        self.thread.join(30)
        (code,) = self.codes
        return code


@contextmanager
def running_daemon(file: Path) -> Iterator[RunningDaemon]:
    started = RunningDaemon(file)
    started.thread.start()
    try:
        yield started
    finally:
        started.daemon.stop()
        started.thread.join(30)
