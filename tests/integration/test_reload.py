"""SIGHUP: the publication changes, and no client needs a new initial sync."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA, table
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.nats import NatsServer
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until

TAG = {"tableName": "tag", **table(id="string", label="string")}


def fill(database: Db) -> None:
    database.users.insert_many(
        [{"_id": f"u{n}", "name": f"name {n}", "address": {"city": f"city {n}"}, "age": n} for n in range(50)]
    )
    database.tags.insert_many([{"_id": f"t{n}", "label": f"label {n}"} for n in range(30)])
    database.messages.insert_many([{"_id": f"m{n}", "kind": "user", "text": "x", "likes": n} for n in range(40)])


def changed() -> tuple[dict[str, Any], dict[str, Any]]:
    return copy.deepcopy(SCHEMA), copy.deepcopy(MAPPINGS)


def reload(zmsd: ZmsdProcess, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Change both documents and send SIGHUP."""
    schema, mappings = changed()
    change(schema, mappings)
    zmsd.write(schema, mappings)
    zmsd.signal(signal.SIGHUP)


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


def change_revision(schema: dict[str, Any], mappings: dict[str, Any]) -> None:
    mappings["user"]["revision"] = 1


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
    elif change is change_revision:
        (found,) = (t for t in client.transactions() if any(c.tag == "truncate" for c in t.changes))
        assert [(c.tag, c.table) for c in found.changes] == [("truncate", "user"), *[("insert", "user")] * len(users)]
    elif change is change_filter:
        assert set(client.rows("userMessage")) == {("m7",)}
    else:
        assert all(row["city"] == row["name"] for row in users.values())


CHANGES = [add_table, add_column, drop_column, drop_table, change_filter, change_path, change_revision]


def done(client: ChangeSourceClient, change: Any) -> Callable[[Any], bool]:
    """Return whether the schema change has arrived: the transaction that changes or empties a table."""
    tags = {"create-table", "add-column", "drop-column", "drop-table", "truncate"}
    return lambda replica: any(c.tag in tags for t in replica.transactions for c in t.changes)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_schema_change_is_one_transaction(change: Any, database: Db, serve: Serve, follow: Follow) -> None:
    fill(database)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    reload(zmsd, change)
    client.wait_for(done(client, change), "the change arrives")
    assert len(client.transactions()) == 1
    expect(client, change, database)
    database.users.insert_one({"_id": "later", "name": "later", "address": {"city": "x"}, "age": 1000})
    client.wait_for(lambda replica: ("later",) in replica.rows["user"], "the stream goes on")
    assert client.replica.reset_required is None


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("running", [True, False], ids=["client_away", "zmsd_away"])
def test_client_that_was_away_gets_the_schema_change(
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


def test_changed_primary_key_sends_reset(database: Db, serve: Serve, follow: Follow) -> None:
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


def test_bad_document_changes_nothing_and_all_errors_are_logged(database: Db, serve: Serve, follow: Follow) -> None:
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


def test_schema_change_interrupted_by_mongodb_is_repeated(
    replica_set: ReplicaSet, database: Db, serve: Serve, follow: Follow
) -> None:
    """The open transaction is rolled back and sent again."""
    fill(database)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    client.close()
    for number in range(6):
        database.users.insert_many([{"_id": f"{number}-{n}", "name": "y" * 8000} for n in range(500)])
    reload(zmsd, add_table)
    zmsd.wait_log("feed runs", count=2)
    back = follow(zmsd, replica=client.replica, wait=False, receive_buffer=1 << 16)
    wait_until(lambda: back.replica.in_transaction, "it begins")
    back.stop_reading()
    with replica_set.failing("getMore", "aggregate", errorCode=262):
        back.go_on_reading()
        wait_until(lambda: not back.replica.in_transaction, "it is rolled back", 60)
    back.wait_rows("tag", 30, 60)
    assert len(back.rows("user")) == 3050


@pytest.mark.parametrize("storage", ["sqlite", "nats-kv"])
def test_schema_change_that_never_arrived_can_be_reverted(
    storage: str, database: Db, serve: Serve, follow: Follow, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The client reconnects with an older watermark, as if zero-cache could not apply the change or was restored from a
    backup."""
    fill(database)
    settings: dict[str, Any] = {}
    if storage == "nats-kv":
        nats = NatsServer(tmp_path / "nats")
        request.addfinalizer(lambda: nats.__exit__(None, None, None))
        settings = {"watermarks": {"storage": storage}, "nats": {"servers": [nats.__enter__().url]}}
    zmsd = serve(SCHEMA, MAPPINGS, settings=settings)
    client = follow(zmsd)
    before = copy.deepcopy(client.replica)
    reload(zmsd, add_table)
    client.wait_rows("tag", 30)
    client.close()
    zmsd.write(SCHEMA, MAPPINGS)
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("feed runs", count=3)
    back = follow(zmsd, replica=before)
    for name in ("one", "two", "three"):  # From the second one on, its watermark is after the change that it never got.
        database.users.insert_one({"_id": name, "name": "x"})
        back.wait_for(lambda replica: len(replica.rows["user"]) == database.users.count_documents({}), "it goes on")
        connections = back.connections
        back.hang_up()
        back.wait_connected(connections + 1)
    assert back.replica.reset_required is None


@pytest.mark.parametrize("unfit", [r'"city": {"$ne": "\ud800"}', r'"$and": [{"a\u0000b": 1}]'], ids=["half", "nul"])
def test_mapping_that_bson_cannot_hold_is_refused(unfit: str, database: Db, serve: Serve, follow: Follow) -> None:
    fill(database)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    file = zmsd.directory / "mappings.json"
    mappings = {**MAPPINGS, "user": {**MAPPINGS["user"], "filter": {"unfit": 1}}}
    file.write_text(json.dumps(mappings).replace('"unfit": 1', unfit))
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("reload refused")
    database.users.insert_one({"_id": "later"})
    client.wait_for(lambda replica: ("later",) in replica.rows["user"], "the stream goes on")
    assert not zmsd.log("Traceback")


def test_older_replica_gets_the_schema_change_after_a_newer_one_joined(
    database: Db, serve: Serve, follow: Follow
) -> None:
    """A newer replica of the shard does not affect an older one."""
    fill(database)
    zmsd = serve(SCHEMA, MAPPINGS)
    old = follow(zmsd)
    old.close()
    database.users.insert_one({"_id": "between", "name": "x"})
    follow(zmsd).close()
    reload(zmsd, add_column)
    zmsd.wait_log("feed runs", count=2)
    back = follow(zmsd, replica=old.replica, wait=False)
    back.wait_for(done(back, add_column), "the change arrives")
    assert "age" in back.replica.tables["user"].columns
    assert len(back.rows("user")) == 51


def test_reload_while_mongodb_refuses_is_tried_again(
    replica_set: ReplicaSet, database: Db, serve: Serve, follow: Follow
) -> None:
    """A publication that MongoDB would refuse must not replace the one in effect."""
    fill(database)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    with replica_set.failing("hello", "listCollections", errorCode=262):
        reload(zmsd, add_table)
        (said,) = zmsd.wait_log("reload refused")
        assert "cannot check the publication with MongoDB" in said
    database.users.insert_one({"_id": "later", "name": "later"})
    client.wait_rows("user", 51)
    client.wait_rows("tag", 30, 60)
