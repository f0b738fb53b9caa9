"""Each kind of write in MongoDB arrives as the corresponding change."""

from __future__ import annotations

import pytest

from tests.integration.chat import COLLECTIONS, MAPPINGS, SCHEMA
from tests.support.client import ChangeSourceClient, watermark_of
from tests.support.compare import assert_same
from tests.support.mongod import Client
from tests.support.types import Db, Follow, Serve
from zmsd.commands.strict_replica import Change


@pytest.fixture
def client(database: Db, serve: Serve, follow: Follow) -> ChangeSourceClient:
    """Return a client that follows the chat, which has user ann, a room and a message."""
    database.users.insert_one({"_id": "ann", "name": "Ann", "address": {"city": "Ulm"}})
    database.rooms.insert_one({"_id": "r1", "title": "Room", "count": 1})
    database.messages.insert_one({"_id": "m1", "kind": "user", "room": "r1", "text": "hello", "likes": 0})
    return follow(serve(SCHEMA, MAPPINGS))


def arrivals(client: ChangeSourceClient, count: int) -> list[Change]:
    """Return the first ``count`` changes after the initial sync; more than these is an error."""
    client.wait_for(
        lambda replica: sum(len(transaction.changes) for transaction in replica.transactions) >= count,
        f"{count} changes",
    )
    changes = [change for transaction in client.transactions() for change in transaction.changes]
    assert len(changes) == count, changes
    return changes


def test_initial_sync_has_the_documents_as_rows(database: Db, client: ChangeSourceClient) -> None:
    assert client.rows("user") == {("ann",): {"id": "ann", "name": "Ann", "city": "Ulm"}}
    assert client.rows("userMessage") == {("m1",): {"id": "m1", "roomId": "r1", "text": "hello", "likes": 0}}
    assert client.rows("systemMessage") == {}
    assert_same(database, SCHEMA, MAPPINGS, client.replica)


def test_insert_arrives_as_insert(database: Db, client: ChangeSourceClient) -> None:
    database.users.insert_one({"_id": "bob", "name": "Bob"})
    (change,) = arrivals(client, 1)
    assert (change.tag, change.table, change.key) == ("insert", "user", ("bob",))
    assert client.rows("user")["bob",] == {"id": "bob", "name": "Bob", "city": None}


def test_update_arrives_as_update(database: Db, client: ChangeSourceClient) -> None:
    database.users.update_one({"_id": "ann"}, {"$set": {"address.city": "Bonn"}})
    (change,) = arrivals(client, 1)
    assert (change.tag, change.table, change.key) == ("update", "user", ("ann",))
    assert client.rows("user")["ann",] == {"id": "ann", "name": "Ann", "city": "Bonn"}


def test_removed_field_becomes_null(database: Db, client: ChangeSourceClient) -> None:
    database.users.update_one({"_id": "ann"}, {"$unset": {"address": ""}})
    arrivals(client, 1)
    assert client.rows("user")["ann",] == {"id": "ann", "name": "Ann", "city": None}


def test_replace_arrives_as_update(database: Db, client: ChangeSourceClient) -> None:
    database.users.replace_one({"_id": "ann"}, {"name": "Anna"})
    (change,) = arrivals(client, 1)
    assert (change.tag, change.key) == ("update", ("ann",))
    assert client.rows("user")["ann",] == {"id": "ann", "name": "Anna", "city": None}


def test_delete_arrives_as_delete(database: Db, client: ChangeSourceClient) -> None:
    database.users.delete_one({"_id": "ann"})
    (change,) = arrivals(client, 1)
    assert (change.tag, change.table, change.key) == ("delete", "user", ("ann",))
    assert client.rows("user") == {}


@pytest.mark.images
def test_documents_outside_all_tables_are_not_sent(database: Db, client: ChangeSourceClient) -> None:
    """An unpublished collection, and a document that matches no filter: their inserts, updates and deletes."""
    database.other.insert_one({"_id": 1})
    database.messages.insert_one({"_id": "draft", "kind": "draft", "text": "…"})
    database.messages.update_one({"_id": "draft"}, {"$set": {"text": "secret"}})
    database.messages.delete_one({"_id": "draft"})
    database.other.delete_one({"_id": 1})
    database.users.insert_one({"_id": "end", "name": "End"})
    (change,) = arrivals(client, 1)
    assert change.key == ("end",)


@pytest.mark.images
def test_change_of_unmapped_fields_is_not_sent(database: Db, client: ChangeSourceClient) -> None:
    database.users.update_one({"_id": "ann"}, {"$set": {"password": "secret"}})
    database.users.insert_one({"_id": "end", "name": "End"})
    (change,) = arrivals(client, 1)
    assert change.key == ("end",)


def test_collection_with_three_tables_fills_the_matching_table(database: Db, client: ChangeSourceClient) -> None:
    database.messages.insert_one({"_id": "m2", "kind": "user", "room": "r1", "text": "hi", "likes": 2})
    database.messages.insert_one({"_id": "m3", "kind": "system", "room": "r1", "event": "joined", "text": "not mapped"})
    image = {"url": "http://x/y.png", "size": {"w": 1, "h": [2, 3]}}
    database.messages.insert_one({"_id": "m4", "kind": "image", "room": "r1", "image": image})
    assert [(change.tag, change.table) for change in arrivals(client, 3)] == [
        ("insert", "userMessage"),
        ("insert", "systemMessage"),
        ("insert", "imageMessage"),
    ]
    assert client.rows("systemMessage")["m3",] == {"id": "m3", "roomId": "r1", "event": "joined"}
    assert client.rows("imageMessage")["m4",]["size"] == {"w": 1, "h": [2, 3]}
    assert_same(database, SCHEMA, MAPPINGS, client.replica)


@pytest.mark.images
def test_document_that_changes_tables_moves_in_one_transaction(database: Db, client: ChangeSourceClient) -> None:
    database.messages.update_one({"_id": "m1"}, {"$set": {"kind": "system", "event": "retracted"}})
    changes = arrivals(client, 2)
    assert {(change.tag, change.table) for change in changes} == {
        ("delete", "userMessage"),
        ("insert", "systemMessage"),
    }
    assert len(client.transactions()) == 1, "it is never in both, and never in none"
    assert client.rows("userMessage") == {}
    assert client.rows("systemMessage") == {("m1",): {"id": "m1", "roomId": "r1", "event": "retracted"}}


@pytest.mark.images
def test_document_that_leaves_all_tables_and_returns_is_followed(database: Db, client: ChangeSourceClient) -> None:
    database.messages.update_one({"_id": "m1"}, {"$set": {"kind": "draft"}})
    database.messages.update_one({"_id": "m1"}, {"$set": {"text": "edited"}})
    database.messages.update_one({"_id": "m1"}, {"$set": {"kind": "user"}})
    assert [change.tag for change in arrivals(client, 2)] == ["delete", "insert"]
    assert client.rows("userMessage")["m1",]["text"] == "edited"


@pytest.mark.images
def test_transaction_over_three_collections_arrives_as_one(
    mongo: Client, database: Db, client: ChangeSourceClient
) -> None:
    with mongo.start_session() as session:
        with session.start_transaction():
            database.users.insert_one({"_id": "bob", "name": "Bob"}, session=session)
            database.rooms.update_one({"_id": "r1"}, {"$inc": {"count": 1}}, session=session)
            database.messages.insert_one({"_id": "m2", "kind": "user", "room": "r1", "text": "hi"}, session=session)
            database.rooms.update_one({"_id": "r1"}, {"$inc": {"count": 1}}, session=session)
            database.messages.delete_one({"_id": "m1"}, session=session)
        committed = session.operation_time
    changes = arrivals(client, 5)
    (transaction,) = client.transactions()
    assert transaction.watermark == watermark_of(committed)
    assert [(change.tag, change.table) for change in changes] == [
        ("insert", "user"),
        ("update", "room"),
        ("insert", "userMessage"),
        ("update", "room"),
        ("delete", "userMessage"),
    ]
    counts = [change.row["count"] for change in changes if change.table == "room" and change.row]
    assert counts == [2, 3], "each row is as it was at its own moment of the transaction"
    assert_same(database, SCHEMA, MAPPINGS, client.replica)


def test_aborted_transaction_is_not_sent(mongo: Client, database: Db, client: ChangeSourceClient) -> None:
    with mongo.start_session() as session:
        session.start_transaction()
        database.users.insert_one({"_id": "bob", "name": "Bob"}, session=session)
        session.abort_transaction()
    database.users.insert_one({"_id": "end", "name": "End"})
    (change,) = arrivals(client, 1)
    assert change.key == ("end",)


def test_watermark_of_a_change_is_its_cluster_time(mongo: Client, database: Db, client: ChangeSourceClient) -> None:
    expected = []
    with mongo.start_session() as session:
        for number, collection in enumerate(COLLECTIONS * 3):
            database[collection].insert_one({"_id": f"x{number}", "kind": "user"}, session=session)
            expected.append(watermark_of(session.operation_time))
            client.wait_watermark(session.operation_time)
    assert [transaction.watermark for transaction in client.transactions()] == expected
