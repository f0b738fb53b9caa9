"""A command's own time limit: mongod ends it first, and the driver gives up a little later."""

from __future__ import annotations

from typing import Any, cast

from bson import encode
from pymongo import _csot
from pymongo.database import Database

from zmsd.mongodb.time_limit import run_within


class Recorder:
    """A database that keeps the command, and the driver's time limit while it runs."""

    def __init__(self) -> None:
        self.command_sent: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.seconds: float | None = None

    def command(self, command: dict[str, Any], **options: Any) -> str:
        self.seconds = _csot.remaining()
        command["maxTimeMS"] = 1  # as the driver does while it has a time limit
        self.command_sent, self.options = dict(command), options
        encode(command)
        return "reply"


def test_limit_is_the_servers_and_the_driver_waits_longer() -> None:
    recorder = Recorder()
    given = {"find": "c", "filter": {}}
    reply = run_within(40.25, cast(Database[dict[str, Any]], recorder), given, session=None)
    assert reply == "reply"
    assert recorder.command_sent == {"find": "c", "filter": {}, "maxTimeMS": 40250}, "the driver does not shorten it"
    assert recorder.options == {"session": None}
    assert recorder.seconds is not None
    assert 42 < recorder.seconds <= 43.25
    assert given == {"find": "c", "filter": {}}
    assert _csot.remaining() is None
