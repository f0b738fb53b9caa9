"""An idle database."""

from __future__ import annotations

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until


def test_idle_client_gets_heartbeats_that_follow_the_oplog(database: Db, serve: Serve, follow: Follow) -> None:
    """The client's position advances by empty transactions, so that it does not fall out of the oplog."""
    client = follow(serve(SCHEMA, MAPPINGS, settings={"feed": {"heartbeat": 1}}))

    def heartbeats() -> int:
        database.other.insert_one({})  # time passes, but no published collection changes
        client.check()
        return len(client.replica.transactions)

    wait_until(lambda: heartbeats() >= 2, "two heartbeats", 20)
    assert client.transactions() == [], "they are empty"
    database.users.insert_one({"_id": "ann"})
    client.wait_rows("user", 1)


def test_client_resumes_from_a_heartbeat(database: Db, serve: Serve, follow: Follow) -> None:
    """Its watermark is not that of an operation in the oplog."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"heartbeat": 1}})
    client = follow(zmsd)

    def heartbeat_came() -> bool:
        database.other.insert_one({})
        client.check()
        return len(client.replica.transactions) >= 1

    for restart in (False, True):
        wait_until(heartbeat_came, "a heartbeat", 20)
        client.close()
        if restart:
            zmsd.kill()
            zmsd.start()
        database.users.insert_one({"_id": f"ann {restart}"})
        client = follow(zmsd, replica=client.replica)
        client.wait_rows("user", 1 + restart)
        assert client.replica.reset_required is None


def test_idle_client_gets_nothing_before_the_heartbeat(database: Db, serve: Serve, follow: Follow) -> None:
    client = follow(serve(SCHEMA, MAPPINGS))
    for number in range(20):
        database.other.insert_one({"_id": number})
    database.users.insert_one({"_id": "ann"})
    client.wait_rows("user", 1)
    assert len(client.replica.transactions) == 1
