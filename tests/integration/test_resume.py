"""Clients and zmsd reconnect and restart: each client continues exactly at its position."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.checker import check
from tests.support.client import ChangeSourceClient
from tests.support.compare import assert_same
from tests.support.mongod import Client, ReplicaSet
from tests.support.stub import lexi
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer, mappings_of, schema_of
from zmsd.commands.strict_replica import Change, Replica

COLLECTIONS = ("a", "b", "c")
SCHEMA, MAPPINGS = schema_of(COLLECTIONS), mappings_of(COLLECTIONS)


@pytest.fixture(autouse=True)
def _collections(database: Db) -> None:
    for name in COLLECTIONS:
        database.create_collection(name)


def caught_up(client: ChangeSourceClient, writer: Writer) -> None:
    last = lexi(writer.last_position())
    client.wait_for(lambda replica: replica.watermark >= last, "the last write", 60)


def changes(replica: Replica) -> list[Change]:
    return [change for transaction in replica.transactions for change in transaction.changes]


@pytest.mark.parametrize("meanwhile", ["zmsd runs on", "SIGTERM", "kill -9", "kill -9, store lost"])
def test_client_that_resumes_gets_exactly_the_later_changes(
    meanwhile: str, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    with Writer(mongo, database.name, COLLECTIONS, threads=2, pause=0.002) as writer:
        writer.start()
        wait_until(lambda: len(changes(client.replica)) > 100, "some changes have come")
        client.close()
        left_at = len(changes(client.replica))
        if meanwhile == "SIGTERM":
            assert zmsd.stop() == 0
        elif meanwhile != "zmsd runs on":
            zmsd.kill()
        if meanwhile.endswith("store lost"):
            for file in Path(zmsd.directory).glob("watermarks.db*"):
                file.unlink()
        written = len(writer.log)
        wait_until(lambda: len(writer.log) > written + 200, "changes that nobody receives", 30)
        if not zmsd.running():
            zmsd.start()
        back = follow(zmsd, replica=client.replica, wait=False)
        wait_until(lambda: len(changes(back.replica)) > left_at + 300, "those, and what came later", 60)
        writer.stop()
    caught_up(back, writer)
    check(writer.log, back.replica).assert_clean()
    assert_same(database, SCHEMA, MAPPINGS, back.replica)
    assert back.replica.reset_required is None


def test_repeatedly_broken_connections_lose_nothing(mongo: Client, database: Db, serve: Serve, follow: Follow) -> None:
    client = follow(serve(SCHEMA, MAPPINGS))
    with Writer(mongo, database.name, COLLECTIONS, threads=2) as writer:
        writer.start(1500)
        for number in range(10):
            client.wait_connected(number + 2)
            seen = len(client.replica.transactions)
            wait_until(lambda seen=seen: len(client.replica.transactions) > seen, "something arrives")
            client.hang_up(reset=number % 2 == 0)
        writer.wait()
    caught_up(client, writer)
    check(writer.log, client.replica).assert_clean()


def test_two_clients_get_the_same_changes_under_the_same_watermarks(
    mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    one, two = follow(zmsd), follow(zmsd, app="other", shard=3)
    # Paced, so that both clients stay caught up, where nothing is joined.
    with mongo.start_session() as session:
        for number in range(50):
            with session.start_transaction():
                for name in COLLECTIONS[: number % 3 + 1]:
                    database[name].insert_one({"_id": f"{number}", "n": number}, session=session)
            one.wait_watermark(session.operation_time)
            two.wait_watermark(session.operation_time)
    assert len(one.transactions()) == 50
    assert [(t.watermark, t.commit_time_ms, t.changes) for t in one.transactions()] == [
        (t.watermark, t.commit_time_ms, t.changes) for t in two.transactions()
    ]
    # As fast as possible: each client may join its backlog differently, but in the same order.
    with Writer(mongo, database.name, COLLECTIONS) as writer:
        writer.start(1000)
        writer.wait()
    for client in (one, two):
        caught_up(client, writer)
    assert changes(one.replica) == changes(two.replica)


def test_client_that_joins_later_has_the_same_rows(mongo: Client, database: Db, serve: Serve, follow: Follow) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    one = follow(zmsd)
    with Writer(mongo, database.name, COLLECTIONS, threads=2) as writer:
        writer.start(400)
        two = follow(zmsd)
        writer.wait()
    for client in (one, two):
        caught_up(client, writer)
        check(writer.log, client.replica).assert_clean()
    assert one.replica.rows == two.replica.rows


def test_two_daemons_give_a_change_the_same_watermark(
    mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """Both daemons give the same watermarks, so a client may reconnect to the other one."""
    first, second = serve(SCHEMA, MAPPINGS), serve(SCHEMA, MAPPINGS)
    client = follow(first)
    with Writer(mongo, database.name, COLLECTIONS, threads=2) as writer:
        writer.start(200)
        writer.wait()
        caught_up(client, writer)
        client.close()
    database.a.insert_one({"_id": "last", "n": -1})
    back = follow(second, replica=client.replica, wait=False)
    back.wait_for(lambda replica: ("last",) in replica.rows["a"], "what the other daemon sends")
    assert changes(back.replica)[-1].key == ("last",)
    check(writer.log, _without_last(back.replica)).assert_clean()


def _without_last(replica: Replica) -> Replica:
    del replica.transactions[-1]
    return replica


def test_watermark_older_than_the_oplog_sends_reset(replica_set: ReplicaSet, serve: Serve, follow: Follow) -> None:
    """MongoDB and zmsd's store were both created again: mongod itself would stream from the oplog's beginning."""
    client = follow(serve(SCHEMA, MAPPINGS))
    client.close()
    oldest = replica_set.oldest_change()
    client.replica.watermark = lexi((oldest.time - 1) << 32)
    back = follow(serve(SCHEMA, MAPPINGS), replica=client.replica, wait=False)
    back.wait_for(lambda replica: replica.reset_required, "reset-required")
    assert "oplog begins" in str(back.replica.reset_required)


def test_sigterm_closes_sessions_with_1001(database: Db, serve: Serve, follow: Follow) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    assert zmsd.stop() == 0
    wait_until(lambda: client.closings, "the connection is closed")
    assert client.closings[0].code == 1001


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_zmsd_while_it_waits_for_mongodb(
    number: signal.Signals, serve: Serve, replica_set: ReplicaSet
) -> None:
    uri = "mongodb://127.0.0.1:1/nobody?replicaSet=rs0"
    zmsd = serve(SCHEMA, MAPPINGS, uri=uri, start=False).start(ready=False)
    zmsd.signal(number)
    assert zmsd.wait_exit(15) == 0
