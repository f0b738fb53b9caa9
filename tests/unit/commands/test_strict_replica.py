"""The checker of all other tests detects each kind of error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.stub import create_table, lexi, relation, required_tables, transaction
from zmsd.commands.strict_replica import Replica
from zmsd.errors import Violation

ITEM = create_table("item", {"id": "string", "n": "number", "ok": "boolean", "doc": "json"}, ["id"])


def insert(row: dict[str, Any], table: str = "item") -> list[Any]:
    return ["data", {"tag": "insert", "relation": relation(table, ["id"]), "new": row}]


def update(row: dict[str, Any], key: Any = None) -> list[Any]:
    return ["data", {"tag": "update", "relation": relation("item", ["id"]), "key": key, "new": row}]


def delete(key: str) -> list[Any]:
    return ["data", {"tag": "delete", "relation": relation("item", ["id"]), "key": {"id": key}}]


def data(tag: str, **body: Any) -> list[Any]:
    return ["data", {"tag": tag, **body}]


def play(replica: Replica, messages: list[Any]) -> list[Any]:
    return [answer for message in messages if (answer := replica.receive(json.dumps(message)))]


@pytest.fixture
def replica() -> Replica:
    """Return a replica after its initial sync at 100, with one item."""
    replica = Replica()
    play(replica, transaction(100, [*required_tables(), *ITEM, insert({"id": "a", "n": 1})]))
    return replica


def test_initial_sync_creates_tables_and_rows_and_is_acknowledged() -> None:
    replica = Replica()
    (ack,) = play(replica, transaction(100, [*required_tables(), *ITEM, insert({"id": "a", "n": 1})]))
    assert ack[0] == "status"
    assert ack[2] == {"watermark": lexi(100)}
    assert replica.version == replica.watermark == lexi(100)
    assert replica.rows["item"] == {("a",): {"id": "a", "n": 1, "ok": None, "doc": None}}


def test_changes_are_applied_at_the_commit(replica: Replica) -> None:
    messages = transaction(
        101,
        [
            insert({"id": "b", "n": 2, "doc": '{"x":[1]}'}),
            update({"id": "a", "n": 3, "ok": True}),
            update({"id": "c", "n": 2}, {"id": "b"}),
            update({"id": "d", "n": 4}),
            delete("d"),
            delete("nothing"),
        ],
    )
    play(replica, messages[:-1])
    assert list(replica.rows["item"]) == [("a",)]
    play(replica, messages[-1:])
    assert replica.rows["item"] == {
        ("a",): {"id": "a", "n": 3, "ok": True, "doc": None},
        ("c",): {"id": "c", "n": 2, "ok": None, "doc": {"x": [1]}},
    }
    tags = [change.tag for change in replica.transactions[0].changes]
    assert tags == ["insert", "update", "update", "update", "delete", "delete"]


@pytest.mark.parametrize("end", ["disconnect", "rollback"])
def test_uncommitted_changes_are_discarded(replica: Replica, end: str) -> None:
    play(replica, transaction(101, [*create_table("other", {"id": "string"}, ["id"]), delete("a")])[:-1])
    if end == "disconnect":
        replica.disconnected()
    else:
        play(replica, [["rollback", {"tag": "rollback"}]])
    assert "other" not in replica.tables
    assert list(replica.rows["item"]) == [("a",)]
    play(replica, transaction(101, create_table("other", {"id": "string"}, ["id"])))
    assert "other" in replica.tables


def test_schema_changes_are_applied(replica: Replica) -> None:
    table = {"schema": "public", "name": "item"}
    column = {"name": "extra", "spec": {"pos": 5, "dataType": "text"}}
    play(replica, transaction(101, [data("add-column", table=table, column=column)]))
    assert replica.rows["item"]["a",]["extra"] is None
    play(replica, transaction(102, [data("drop-column", table=table, column="ok"), insert({"id": "b", "extra": "x"})]))
    assert replica.rows["item"]["b",] == {"id": "b", "n": None, "doc": None, "extra": "x"}
    play(replica, transaction(103, [data("truncate", relations=[relation("item", ["id"])])]))
    assert replica.rows["item"] == {}
    play(replica, transaction(104, [data("drop-table", id=table)]))
    assert "item" not in replica.rows
    play(replica, transaction(105, ITEM))
    assert replica.rows["item"] == {}


def test_reset_required_is_recorded(replica: Replica) -> None:
    play(replica, [["control", {"tag": "reset-required", "message": "the position is lost"}]])
    assert replica.reset_required == "the position is lost"


def test_status_is_echoed(replica: Replica) -> None:
    assert play(replica, [["status", {"ack": True}, {"watermark": lexi(200)}]]) == [
        ["status", {"ack": True}, {"watermark": lexi(200)}]
    ]
    assert replica.watermark == lexi(100)


def begin(watermark: Any) -> list[Any]:
    return ["begin", {"tag": "begin", "json": "s"}, {"commitWatermark": watermark}]


def commit(watermark: Any) -> list[Any]:
    return ["commit", {"tag": "commit", "commitTimeMs": 1}, {"watermark": watermark}]


OTHER = create_table("other", {"id": "string", "n": "number"}, ["id"])
NULLABLE = {"schema": "public", "name": "other_n", "tableName": "other", "unique": True, "columns": {"n": "ASC"}}

VIOLATIONS: dict[str, list[Any]] = {
    "a repeated watermark": transaction(100, []),
    "a watermark that goes back": transaction(99, []),
    "a watermark that is not a LexiVersion": [begin("abc"), commit("abc")],
    "a watermark that is a number": [begin(101), commit(101)],
    "another watermark at the commit": [begin(lexi(101)), commit(lexi(102))],
    "a begin inside a transaction": [begin(lexi(101)), begin(lexi(102))],
    "a commit outside of one": [commit(lexi(101))],
    "a rollback outside of one": [["rollback", {"tag": "rollback"}]],
    "data outside of one": [insert({"id": "b"})],
    "a reset inside of one": [begin(lexi(101)), ["control", {"tag": "reset-required"}]],
    "an unknown message": [["hello", {"tag": "hello"}]],
    "an unknown tag": transaction(101, [data("backfill")]),
    "no array": [{"begin": 1}],
    "an unknown table": transaction(101, [insert({"id": "b"}, "unknown")]),
    "an unknown column": transaction(101, [insert({"id": "b", "unknown": 1})]),
    "no key": transaction(101, [insert({"n": 1})]),
    "a null key": transaction(101, [update({"id": None, "n": 1})]),
    "an update without the field key": transaction(
        101, [data("update", relation=relation("item", ["id"]), new={"id": "a"})]
    ),
    "a wrong row key": transaction(101, [data("delete", relation=relation("item", ["n"]), key={"n": 1})]),
    "a key with other columns": transaction(
        101, [data("delete", relation=relation("item", ["id"]), key={"id": "a", "n": 1})]
    ),
    "text in a number column": transaction(101, [insert({"id": "b", "n": "1"})]),
    "a boolean in a number column": transaction(101, [insert({"id": "b", "n": True})]),
    "a number in a text column": transaction(101, [insert({"id": 1})]),
    "a number beyond int64": transaction(101, [insert({"id": "b", "n": 1 << 63})]),
    "a lone surrogate": transaction(101, [insert({"id": "\ud800"})]),
    "NUL in a key": transaction(101, [insert({"id": "a\0"})]),
    "parsed json": transaction(101, [insert({"id": "b", "doc": {"x": 1}})]),
    "a json column with no JSON": transaction(101, [insert({"id": "b", "doc": "{x"})]),
    "a json column with NaN": transaction(101, [insert({"id": "b", "doc": "NaN"})]),
    "a move onto another row": transaction(101, [insert({"id": "b"}), update({"id": "a"}, {"id": "b"})]),
    "a table that exists": transaction(101, ITEM),
    "a table without an index": transaction(101, create_table("other", {"id": "string"}, ["id"])[:1]),
    "a unique index over a nullable column": transaction(101, [OTHER[0], data("create-index", spec=NULLABLE)]),
    "a second unique index": transaction(101, [*OTHER, data("create-index", spec=NULLABLE)]),
    "a column type that Zero bends": transaction(101, create_table("other", {"id": "uuid"}, ["id"])),
    "a dropped column that an index uses": transaction(
        101, [data("drop-column", table={"schema": "public", "name": "item"}, column="id")]
    ),
}


@pytest.mark.parametrize("messages", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_violation_is_raised(replica: Replica, messages: list[Any]) -> None:
    with pytest.raises(Violation):
        play(replica, messages)


def test_number_that_is_not_json_is_a_violation(replica: Replica) -> None:
    play(replica, [begin(lexi(101))])
    with pytest.raises(Violation, match="NaN"):
        replica.receive(json.dumps(insert({"id": "b", "n": float("nan")})))


@pytest.mark.parametrize("missing", ["zero_0.clients", "zero_0.mutations", "zero.permissions", "the permissions row"])
def test_initial_sync_without_required_tables_is_a_violation(missing: str) -> None:
    messages = [message for message in required_tables() if missing not in json.dumps(message)]
    if missing == "the permissions row":
        messages = messages[:-1]
    with pytest.raises(Violation, match=missing):
        play(Replica(), transaction(100, messages))
