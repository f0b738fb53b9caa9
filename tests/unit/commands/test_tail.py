"""How ``zmsd tail`` shows a transaction."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tests.support.frames import messages
from zmsd.commands.tail import Viewer
from zmsd.schema.tables import Column, TableSpec
from zmsd.zero import protocol

USER = TableSpec("user", (Column("id", "string", False), Column("age", "number", True)), ("id",))


def insert(number: int) -> list[Any]:
    return ["data", {"tag": "insert", "relation": {"schema": "public", "name": "user"}, "new": {"id": number}}]


def shown(*told: list[Any]) -> list[str]:
    """Return the lines below the head of a transaction with these messages."""
    out = io.StringIO()
    viewer = Viewer(out)
    for message in (["begin", {}, {}], *told, ["commit", {"commitTimeMs": 0}, {"watermark": "w"}]):
        viewer.show(message)
    return out.getvalue().splitlines()[1:]


def test_row_changes_are_shown_one_per_line() -> None:
    relation = {"schema": "public", "name": "user"}
    assert shown(
        insert(1),
        ["data", {"tag": "update", "relation": relation, "key": None, "new": {"id": 1, "age": 2}}],
        ["data", {"tag": "delete", "relation": relation, "key": {"id": 1}}],
        ["data", {"tag": "truncate", "relations": [relation]}],
    ) == ['    + user {"id": 1}', '    ~ user {"id": 1, "age": 2}', '    - user {"id": 1}', "    0 user"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_initial_sync_on_a_terminal_starts_its_progress_with_the_rows() -> None:
    out = Terminal()
    viewer = Viewer(out)
    viewer.expect_initial_sync()
    for message in (["begin", {}, {}], *messages(protocol.create_table(USER) * 2), insert(1), insert(2)):
        viewer.show(message)
    viewer.show(["commit", {"commitTimeMs": 0}, {"watermark": "w"}])
    first, second, progress, end, _ = out.getvalue().split("\n")
    assert first == second
    assert first.startswith("  create table user (id ")
    assert progress.startswith("\r  1 rows, ")
    assert "\r  2 rows, " in progress
    assert end.startswith("  initial sync complete")


@pytest.mark.parametrize(
    "character",
    [
        *map(chr, (*range(0x20), *range(0x7F, 0xA0))),
        *"\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ud800\U000e0041",
    ],
    ids=lambda character: f"U+{ord(character):04X}",
)
def test_control_characters_are_escaped(character: str) -> None:
    """Control characters are escaped in a value, a table's name, and the source's own messages."""
    text = f"a{character}b"
    out = io.StringIO()
    viewer = Viewer(out)
    relation = {"schema": "public", "name": text}
    viewer.show(["begin", {}, {}])
    viewer.show(["data", {"tag": "insert", "relation": relation, "new": {text: text}}])
    viewer.show(["commit", {"commitTimeMs": 0}, {"watermark": text}])
    viewer.show([text, {text: text}])
    assert len(out.getvalue().split("\n")) == 4
    assert character not in out.getvalue().replace("\n", "")
    out.getvalue().encode()


def test_schema_change_shows_table_and_column() -> None:
    made = messages(protocol.add_column(USER, USER.columns[1]) + protocol.drop_column("user", "name"))
    kind = protocol.DATA_TYPES["number"]
    assert shown(*made) == [f"    add-column user age {kind}", "    drop-column user name"]
    assert shown(*messages(protocol.drop_table("user"))) == ["    drop-index user_pkey", "    drop-table user"]


def test_omitted_changes_are_counted() -> None:
    assert shown(*map(insert, range(8)))[-1] == '    + user {"id": 7}'
    assert shown(*map(insert, range(10)))[-1] == "    … 2 more"
    columns = messages(protocol.add_column(USER, USER.columns[1])) * 5
    assert shown(*columns, *map(insert, range(6)))[-1] == "    … 3 more", "of rows and columns alike"
