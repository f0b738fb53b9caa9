"""What is committed while the client has not acknowledged the last transaction is sent as one (feed.join_delay)."""

from __future__ import annotations

import math
import time

import pytest

from tests.support.checker import check
from tests.support.compare import assert_same
from tests.support.mongod import Client
from tests.support.stub import lexi
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR
from tests.support.writer import Writer, mappings_of, schema_of

COLLECTIONS = ("a", "b", "c")
SCHEMA, MAPPINGS = schema_of(COLLECTIONS), mappings_of(COLLECTIONS)


def insert(database: Db, numbers: range) -> None:
    for number in numbers:
        database.a.insert_one({"_id": f"x{number}"})


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_client_that_acknowledges_promptly_gets_each_transaction(
    database: Db, serve: Serve, follow: Follow, scope: str
) -> None:
    """The bound is a second, and nothing waits for it."""
    client = follow(serve(SCHEMA, MAPPINGS, settings={"feed": {"join_delay": 1, "scope": scope}}))
    started = time.monotonic()
    for number in range(30):
        insert(database, range(number, number + 1))
        client.wait_rows("a", number + 1)
    assert time.monotonic() - started < 10 * FACTOR
    assert [len(transaction.changes) for transaction in client.transactions()] == [1] * 30


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_client_that_acknowledges_late_gets_fewer_and_complete_transactions(
    mongo: Client, database: Db, serve: Serve, follow: Follow, scope: str
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"join_delay": 0.5, "scope": scope}})
    client = follow(zmsd, ack_seconds=0.25)
    with Writer(mongo, database.name, COLLECTIONS, threads=4) as writer:
        writer.start(1000)
        writer.wait(240)
    client.wait_for(lambda replica: replica.watermark >= lexi(writer.last_position()), "the last write", 60)
    report = check(writer.log, client.replica).assert_clean()
    assert report.writes == 1000
    assert len(client.transactions()) < 250
    times = {lexi(write.position): write for write in writer.log}
    assert {transaction.watermark for transaction in client.transactions()} <= times.keys()
    assert_same(database, SCHEMA, MAPPINGS, client.replica)


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_client_that_never_acknowledges_gets_changes_within_the_bound(
    database: Db, serve: Serve, follow: Follow, scope: str
) -> None:
    client = follow(serve(SCHEMA, MAPPINGS, settings={"feed": {"join_delay": 1, "scope": scope}}), ack_seconds=math.inf)
    insert(database, range(1))
    client.wait_rows("a", 1)
    insert(database, range(1, 10))
    client.wait_rows("a", 10, timeout=5)  # after a second, as one or two transactions
    before = len(client.transactions())
    assert before < 6
    rows = 10
    while len(client.transactions()) - before < 4:  # until acks count as lagging
        insert(database, range(rows, rows + 1))
        rows += 1
        client.wait_rows("a", rows, timeout=5)
    started = time.monotonic()
    for number in range(rows, rows + 20):
        insert(database, range(number, number + 1))
        client.wait_rows("a", number + 1)
    assert time.monotonic() - started < 10 * FACTOR, "nothing waits any more"
