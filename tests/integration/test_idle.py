"""An idle database."""

from __future__ import annotations

import itertools
from contextlib import closing

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from zmsd.commands.change_source_client import Message
from zmsd.commands.daemon_client import Target


def test_idle_client_gets_heartbeats_that_follow_the_oplog(database: Db, serve: Serve, follow: Follow) -> None:
    """The client's position advances by empty transactions, so that it does not fall out of the oplog."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"heartbeat": 1}})
    client = follow(zmsd)

    def heartbeats() -> int:
        database.other.insert_one({})  # time passes, but no published collection changes
        client.check()
        return len(client.replica.transactions)

    wait_until(lambda: heartbeats() >= 2, "two heartbeats", 20)
    assert client.transactions() == [], "they are empty"
    # As zmsd tail --last-watermark does, without the watermark of an initial sync.
    with closing(Target(f"127.0.0.1:{zmsd.port}").follow("zmsd_tail", 0, client.replica.watermark)) as observer:
        database.users.insert_one({"_id": "ann"})
        kinds = [message[1]["tag"] for message in itertools.takewhile(_is_no_commit, observer.messages(20)) if message]
        assert kinds == ["begin", "insert"]
    client.wait_rows("user", 1)


def _is_no_commit(message: Message | None) -> bool:
    return message is not None and message[0] != "commit"


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
