from __future__ import annotations

from bson.int64 import Int64
from pymongo.errors import AutoReconnect

from zmsd.bson_types import Document
from zmsd.mongodb.cursors import collection_of, kill_cursor


def test_collection_of_cursor_is_its_namespace_without_the_database() -> None:
    assert collection_of({"id": 1, "ns": "db.$cmd.aggregate"}) == "$cmd.aggregate"


def test_kill_cursor_sends_one_command() -> None:
    sent: list[Document] = []
    kill_cursor(sent.append, "a", 7)
    assert sent == [{"killCursors": "a", "cursors": [Int64(7)]}]
    assert type(sent[0]["cursors"][0]) is Int64


def test_kill_cursor_of_an_ended_cursor_sends_nothing() -> None:
    sent: list[Document] = []
    kill_cursor(sent.append, "a", 0)
    assert not sent


def test_kill_cursor_never_raises_when_the_server_is_gone() -> None:
    def run(command: Document) -> None:
        raise AutoReconnect("away")

    kill_cursor(run, "a", 7)
