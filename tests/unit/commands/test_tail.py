"""How ``zmsd tail`` shows a transaction."""

from __future__ import annotations

import io
from typing import Any

from tests.support.frames import messages
from zmsd.commands.tail import Viewer
from zmsd.schema.tables import Column, TableSpec
from zmsd.zero import protocol

USER = TableSpec("user", (Column("id", "string", False), Column("age", "number", True)), ("id",))


def insert(number: int) -> list[Any]:
    return ["data", {"tag": "insert", "relation": {"schema": "public", "name": "user"}, "new": {"id": number}}]


def shown(*told: list[Any]) -> list[str]:
    """The lines below the head of a transaction with these messages."""
    out = io.StringIO()
    viewer = Viewer(out)
    for message in (["begin", {}, {}], *told, ["commit", {"commitTimeMs": 0}, {"watermark": "w"}]):
        viewer.show(message)
    return out.getvalue().splitlines()[1:]


def test_rows() -> None:
    relation = {"schema": "public", "name": "user"}
    assert shown(
        insert(1),
        ["data", {"tag": "update", "relation": relation, "key": None, "new": {"id": 1, "age": 2}}],
        ["data", {"tag": "delete", "relation": relation, "key": {"id": 1}}],
        ["data", {"tag": "truncate", "relations": [relation]}],
    ) == ['    + user {"id": 1}', '    ~ user {"id": 1, "age": 2}', '    - user {"id": 1}', "    0 user"]


def test_a_change_of_a_table_says_what_changes() -> None:
    made = messages(protocol.add_column(USER, USER.columns[1]) + protocol.drop_column("user", "name"))
    kind = protocol.DATA_TYPES["number"]
    assert shown(*made) == [f"    add-column user age {kind}", "    drop-column user name"]
    assert shown(*messages(protocol.drop_table("user"))) == ["    drop-index user_pkey", "    drop-table user"]


def test_what_is_not_shown_is_counted() -> None:
    assert shown(*map(insert, range(8)))[-1] == '    + user {"id": 7}'
    assert shown(*map(insert, range(10)))[-1] == "    … 2 more"
    columns = messages(protocol.add_column(USER, USER.columns[1])) * 5
    assert shown(*columns, *map(insert, range(6)))[-1] == "    … 3 more", "of rows and columns alike"
