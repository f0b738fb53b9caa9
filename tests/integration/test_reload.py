"""SIGHUP: what is published changes, and no client has to copy everything afresh."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from typing import Any

import pytest
from pymongo.database import Database

from tests.integration.chat import MAPPINGS, SCHEMA, table
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess

Db = Database[dict[str, Any]]
Serve = Callable[..., ZmsdProcess]
Follow = Callable[..., ChangeSourceClient]

TAG = {"tableName": "tag", **table(id="string", label="string")}


def fill(database: Db) -> None:
    database.users.insert_many(
        [{"_id": f"u{n}", "name": f"name {n}", "address": {"city": f"city {n}"}, "age": n} for n in range(50)]
    )
    database.tags.insert_many([{"_id": f"t{n}", "label": f"label {n}"} for n in range(30)])
    database.messages.insert_many([{"_id": f"m{n}", "kind": "user", "text": "x", "likes": n} for n in range(40)])


def changed() -> tuple[dict[str, Any], dict[str, Any]]:
    return copy.deepcopy(SCHEMA), copy.deepcopy(MAPPINGS)


def add_table(schema: dict[str, Any], mappings: dict[str, Any]) -> None:
    schema["tag"] = TAG
    mappings["tag"] = {"collection": "tags", "fields": {"id": "_id"}}


def add_column(schema: dict[str, Any], mappings: dict[str, Any]) -> None:
    schema["user"]["columns"]["age"] = {"type": "number", "optional": True}


def drop_column(schema: dict[str, Any], mappings: dict[str, Any]) -> None:
    del schema["user"]["columns"]["city"], mappings["user"]["fields"]["city"]


def drop_table(schema: dict[str, Any], mappings: dict[str, Any]) -> None:
    del schema["room"], mappings["room"]


def change_filter(schema: dict[str, Any], mappings: dict[str, Any]) -> None:
    mappings["userMessage"]["filter"] = {"kind": "user", "likes": 7}


def change_path(schema: dict[str, Any], mappings: dict[str, Any]) -> None:
    mappings["user"]["fields"]["city"] = "name"


def expect(client: ChangeSourceClient, change: Any, database: Db) -> None:
    users = client.rows("user")
    assert len(users) == database.users.count_documents({})
    if change is add_table:
        assert {row["label"] for row in client.rows("tag").values()} == {f"label {n}" for n in range(30)}
    elif change is add_column:
        assert {row["age"] for row in users.values()} == set(range(50))
    elif change is drop_column:
        assert all("city" not in row for row in users.values())
    elif change is drop_table:
        assert "room" not in client.replica.tables
    elif change is change_filter:
        assert set(client.rows("userMessage")) == {("m7",)}
    else:
        assert all(row["city"] == row["name"] for row in users.values())


CHANGES = [add_table, add_column, drop_column, drop_table, change_filter, change_path]


def done(client: ChangeSourceClient, change: Any) -> Callable[[Any], bool]:
    """The transaction of the change itself has come: it is the one that changes a table, or empties one."""
    tags = {"create-table", "add-column", "drop-column", "drop-table", "truncate"}
    return lambda replica: any(c.tag in tags for t in replica.transactions for c in t.changes)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_what_is_published_is_one_transaction(
    change: Any, database: Db, serve: Serve, follow: Follow
) -> None:
    fill(database)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    schema, mappings = changed()
    change(schema, mappings)
    zmsd.write(schema, mappings)
    zmsd.signal(signal.SIGHUP)
    client.wait_for(done(client, change), "the change arrives")
    assert len(client.transactions()) == 1
    expect(client, change, database)
    database.users.insert_one({"_id": "later", "name": "later", "address": {"city": "x"}, "age": 1000})
    client.wait_for(lambda replica: ("later",) in replica.rows["user"], "the stream goes on")
    assert client.replica.reset_required is None


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("running", [True, False], ids=["client_away", "zmsd_away"])
def test_a_client_that_was_away_crosses_the_change_when_it_comes_back(
    running: bool, change: Any, database: Db, serve: Serve, follow: Follow
) -> None:
    fill(database)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    client.close()
    database.users.update_one({"_id": "u1"}, {"$set": {"name": "before"}})
    schema, mappings = changed()
    change(schema, mappings)
    if running:
        zmsd.write(schema, mappings)
        zmsd.signal(signal.SIGHUP)
        zmsd.wait_log("reloaded")
    else:
        zmsd.stop()
        zmsd.write(schema, mappings)
        zmsd.start()
    database.users.update_one({"_id": "u2"}, {"$set": {"name": "after"}})
    database.users.delete_one({"_id": "u3"})
    database.users.insert_one({"_id": "u3", "name": "again", "age": 3})
    again = follow(zmsd, replica=client.replica)
    again.wait_for(done(again, change), "the change arrives")
    again.wait_for(lambda replica: replica.rows["user"][("u2",)]["name"] == "after", "the latest is there")
    expect(again, change, database)
    assert again.rows("user")[("u1",)]["name"] == "before"
    assert again.rows("user")[("u3",)]["name"] == "again"


def test_a_changed_primary_key_is_a_reset(database: Db, serve: Serve, follow: Follow) -> None:
    fill(database)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    schema, mappings = changed()
    schema["user"]["primaryKey"] = ["id", "name"]
    zmsd.write(schema, mappings)
    zmsd.signal(signal.SIGHUP)
    client.wait_for(lambda replica: replica.reset_required, "reset-required")
    assert "primary key" in str(client.replica.reset_required)
    fresh = follow(zmsd)
    assert len(fresh.rows("user")) == 50
    assert fresh.replica.version > client.replica.version


def test_a_bad_document_changes_nothing_and_every_fault_is_said(database: Db, serve: Serve, follow: Follow) -> None:
    fill(database)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    schema, mappings = changed()
    schema["user"]["columns"]["age"] = {"type": "numbr"}
    mappings["nothing"] = {"collection": "x", "fields": {}}
    zmsd.write(schema, mappings)
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("reload refused", count=2)
    database.users.insert_one({"_id": "later", "name": "later"})
    client.wait_rows("user", 51)
    assert len(client.transactions()) == 1
