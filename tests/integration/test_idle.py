"""An idle database."""

from __future__ import annotations

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.types import Db, Follow, Serve


def test_idle_client_gets_heartbeats_that_follow_the_oplog(database: Db, serve: Serve, follow: Follow) -> None:
    """The client's position advances by empty transactions, so that it does not fall out of the oplog."""
    client = follow(serve(SCHEMA, MAPPINGS, settings={"feed": {"heartbeat": 1}}))
    database.other.insert_one({"_id": 1})  # time passes, but no published collection changes
    client.wait_for(lambda replica: len(replica.transactions) >= 1, "a heartbeat", 5)
    database.other.insert_one({"_id": 2})
    client.wait_for(lambda replica: len(replica.transactions) >= 2, "another", 5)
    assert client.transactions() == [], "they are empty"
    database.users.insert_one({"_id": "ann"})
    client.wait_rows("user", 1)


def test_idle_client_gets_nothing_before_the_heartbeat(database: Db, serve: Serve, follow: Follow) -> None:
    client = follow(serve(SCHEMA, MAPPINGS))
    for number in range(20):
        database.other.insert_one({"_id": number})
    database.users.insert_one({"_id": "ann"})
    client.wait_rows("user", 1)
    assert len(client.replica.transactions) == 1
