"""zero-cache's own tables: each row goes to the shard that its document names."""

from __future__ import annotations

from typing import Any

from tests.support.frames import data
from zmsd.bson_types import Document
from zmsd.mongodb.events import ChangeEvent
from zmsd.rows.rejects import Rejects
from zmsd.zero.system_tables import ShardTable


def client(shard: str = "zero_0", last: int = 1, **more: Any) -> Document:
    return {"_id": "1", "shard": shard, "clientGroupID": "g", "clientID": "c", "lastMutationID": last, **more}


def changes(event: ChangeEvent, rejects: Rejects | None = None) -> list[tuple[str, str, Any]]:
    """Return (shard, tag, new row or key) of each message of an event."""
    table = ShardTable("clients", "zc", rejects or Rejects())
    found = []
    for shard, frame in table.changes(event):
        (change,) = data(frame)
        assert change["relation"]["name"] == f"{shard}.clients"
        found.append((shard, change["tag"], change.get("new") or change.get("key")))
    return found


def event(kind: str, after: Document | None = None, before: Document | None = None) -> ChangeEvent:
    return ChangeEvent({}, kind, "zc", "1", after, before, before is not None)


ROW = {"clientGroupID": "g", "clientID": "c", "lastMutationID": 1, "userID": None}
KEY = {"clientGroupID": "g", "clientID": "c"}


def test_insert_update_and_delete_go_to_the_shard() -> None:
    assert changes(event("insert", client())) == [("zero_0", "insert", ROW)]
    assert changes(event("update", client(last=2), client())) == [("zero_0", "update", {**ROW, "lastMutationID": 2})]
    assert changes(event("delete", None, client())) == [("zero_0", "delete", KEY)]


def test_document_that_changes_its_shard_leaves_the_old_one() -> None:
    assert changes(event("update", client("app_1"), client("zero_0"))) == [
        ("zero_0", "delete", KEY),
        ("app_1", "insert", ROW),
    ]


def test_document_without_a_key_has_no_row_and_is_counted() -> None:
    rejects = Rejects()
    assert changes(event("insert", client(clientID=None)), rejects) == []
    ((table, _),) = rejects.counts()
    assert table == "(shard).clients"
    assert changes(event("update", client(clientID=None), client())) == [("zero_0", "delete", KEY)]


def test_delete_without_the_document_before_is_counted() -> None:
    rejects = Rejects()
    assert changes(event("delete"), rejects) == []
    assert rejects.counts() == {("(shard).clients", "delete without the document before"): 1}


def test_scan_sends_the_rows_of_one_shard() -> None:
    table = ShardTable("clients", "zc", Rejects())
    documents = [client(), client("app_1"), {"_id": "2"}, client(clientGroupID=None)]
    assert [data(frame)[0]["new"] for frame in table.inserts("zero_0", documents)] == [ROW]


def test_dropped_collection_empties_the_table_of_each_shard() -> None:
    table = ShardTable("mutations", "zm", Rejects())
    found = [(shard, data(frame)[0]["relations"][0]["name"]) for shard, frame in table.emptied(["a_0", "b_1"])]
    assert found == [("a_0", "a_0.mutations"), ("b_1", "b_1.mutations")]


def test_mutation_has_its_result_as_json() -> None:
    table = ShardTable("mutations", "zm", Rejects())
    document = {"shard": "zero_0", "clientGroupID": "g", "clientID": "c", "mutationID": 4, "result": {"error": "x"}}
    (frame,) = table.inserts("zero_0", [document])
    assert data(frame)[0]["new"]["result"] == '{"error":"x"}'
    assert data(frame)[0]["relation"]["rowKey"]["columns"] == ["clientGroupID", "clientID", "mutationID"]
