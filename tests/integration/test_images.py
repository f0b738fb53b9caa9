"""Pre- and post-images: they are switched on, and what happens to changes without them."""

from __future__ import annotations

import pytest

from tests.integration.chat import COLLECTIONS, MAPPINGS, SCHEMA, named, table
from tests.support.compare import assert_same
from tests.support.mongod import Client
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until

OFF = {"feed": {"images": "off"}}


def with_images(database: Db) -> set[str]:
    """Return the collections that have images."""
    return {
        info["name"]
        for info in database.list_collections()
        if info["options"].get("changeStreamPreAndPostImages", {}).get("enabled")
    }


@pytest.mark.images
def test_images_are_switched_on_before_ready_and_logged(database: Db, serve: Serve) -> None:
    database.create_collection("users")
    database.create_collection("other")
    zmsd = serve(SCHEMA, MAPPINGS)
    assert "users" in with_images(database), "before it is ready"
    assert zmsd.log("images.*users")
    assert "other" not in with_images(database), "what is not published is left alone"


@pytest.mark.images
def test_images_are_switched_on_for_a_later_collection(database: Db, serve: Serve) -> None:
    serve(SCHEMA, MAPPINGS)
    for name in COLLECTIONS:
        database[name].insert_one({"_id": "first", "kind": "user"})  # without a row nothing needs its images
    wait_until(lambda: with_images(database) == set(COLLECTIONS), "all have images", 20)


def test_images_off_logs_a_warning_and_changes_arrive(database: Db, serve: Serve, follow: Follow) -> None:
    """Changes arrive also for rows that leave a table by its filter: their key follows from _id, so they can be deleted
    without a pre-image."""
    database.users.insert_one({"_id": "ann", "name": "Ann"})
    database.messages.insert_many({"_id": f"m{number}", "kind": "user"} for number in range(3))
    zmsd = serve(SCHEMA, MAPPINGS, settings=OFF)
    client = follow(zmsd)
    assert len(zmsd.log("WARNING +dispatcher: images off ")) == 1, zmsd.stderr()
    database.users.update_one({"_id": "ann"}, {"$set": {"name": "Anna"}})
    database.messages.delete_one({"_id": "m0"})
    database.messages.update_one({"_id": "m1"}, {"$set": {"kind": "system"}})
    database.messages.update_one({"_id": "m2"}, {"$set": {"kind": "draft"}})
    database.users.insert_one({"_id": "end"})
    client.wait_rows("user", 2)
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
    assert with_images(database) == set()


@pytest.mark.parametrize("mode", ["off", pytest.param("auto", marks=pytest.mark.images)])
def test_table_whose_key_needs_images_is_refused_without_them(
    database: Db, serve: Serve, follow: Follow, mode: str
) -> None:
    """Only the pre-image shows which row a deleted document had."""
    schema = named(city=table(id="string", name="string"))
    mappings = {"city": {"collection": "cities", "fields": {"id": "code", "name": "name"}}}
    database.cities.insert_one({"_id": 1, "code": "ul", "name": "Ulm"})
    zmsd = serve(schema, mappings, settings={"feed": {"images": mode}}, start=False)
    if mode == "auto":
        client = follow(zmsd.start())
        database.cities.delete_one({"_id": 1})
        client.wait_rows("city", 0)
        return
    zmsd.start(ready=False)
    zmsd.wait_log("ERROR.*city.*images")
    status, reason = zmsd.get("/readyz")
    assert status == 503
    assert "city" in reason


@pytest.mark.images
def test_transaction_of_many_updates_without_images_is_looked_up(
    mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """One request reads more documents than the first batch of a reply has (101)."""
    database.create_collection("a")
    database.a.insert_many([{"_id": number, "n": 0} for number in range(300)])
    computed = {"source": "a", "projection": {"id": "$_id", "n": {"$add": ["$n", 1]}}}
    plain = {"collection": "a", "fields": {"id": "_id"}}
    zmsd = serve(named(**dict.fromkeys(("a", "b"), table(id="number", n="number"))), {"a": computed, "b": plain})
    client = follow(zmsd)
    zmsd.kill()
    database.command({"collMod": "a", "changeStreamPreAndPostImages": {"enabled": False}})
    with mongo.start_session() as session, session.start_transaction():
        database.a.update_many({}, {"$set": {"n": 7}}, session=session)
    zmsd.start()
    client.wait_for(lambda replica: {row["n"] for row in replica.rows["b"].values()} == {7}, "all updates")
    assert [row["n"] for row in client.rows("a").values()] == [8] * 300
