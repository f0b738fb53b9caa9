"""Changes from before the images were on, for a client that comes back to them: right in every table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo.database import Database

from tests.integration.test_state import COLLECTIONS, FROM_ID, MAPPINGS, SCHEMA, Writes, compare
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import Client, ReplicaSet
from tests.support.wait import wait_until

Db = Database[dict[str, Any]]
Serve = Callable[..., ZmsdProcess]
Follow = Callable[..., ChangeSourceClient]


def come_back(client: Client, database: Db, zmsd: ZmsdProcess, follow: Follow) -> ChangeSourceClient:
    """A client that was away, with zmsd, while there were no images, and is now where MongoDB is."""
    writes = Writes(client, database, seed=4)
    writes.batch()
    first = follow(zmsd.start())
    compare(database, first, tuple(SCHEMA))
    first.close()
    assert zmsd.stop() == 0
    for name in COLLECTIONS:
        database.command({"collMod": name, "changeStreamPreAndPostImages": {"enabled": False}})
    for _ in range(3):
        writes.batch()
    zmsd.start()
    back = follow(zmsd, replica=first.replica, wait=False)
    back.wait_watermark(writes.batch())
    compare(database, back, tuple(SCHEMA))
    return back


def truncated(client: ChangeSourceClient) -> set[str]:
    return {change.table for one in client.replica.transactions for change in one.changes if change.tag == "truncate"}


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_documents_are_read_at_the_time_of_the_change(
    scope: str, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """As long as the server keeps that history."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope}}, start=False)
    back = come_back(mongo, database, zmsd, follow)
    assert not truncated(back)


@pytest.fixture
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """A replica set that keeps no history for reads in the past."""
    arguments = ("--setParameter", "minSnapshotHistoryWindowInSeconds=0")
    with ReplicaSet(tmp_path_factory.mktemp("forgetful"), arguments=arguments) as replicas:
        yield replicas


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_a_table_is_copied_afresh_where_that_history_is_gone(
    scope: str, forgetful: ReplicaSet, serve: Serve, follow: Follow
) -> None:
    """But not where _id alone decides."""
    with forgetful.client() as client:
        settings = {"feed": {"scope": scope}}
        zmsd = serve(SCHEMA, MAPPINGS, settings=settings, uri=forgetful.uri("forgetful"), start=False)
        back = come_back(client, client.forgetful, zmsd, follow)
        assert truncated(back) == set(SCHEMA) - set(FROM_ID)
        (one, *_) = zmsd.wait_log("table copied afresh.*line")
        assert "without the document before" in one
        # What comes now has images, and is told change by change.
        transactions = len(back.replica.transactions)
        client.forgetful.orders.insert_one({"_id": "late", "lines": [{"sku": "p"}, {"sku": "q"}]})
        wait_until(lambda: len(back.replica.transactions) > transactions, "the new order")
        client.forgetful.orders.delete_one({"_id": "late"})
        back.wait_for(lambda replica: ("late-0",) not in replica.rows["line"], "it is gone")
        assert [change.tag for one in back.replica.transactions[transactions:] for change in one.changes] == [
            *("insert", "insert", "delete", "delete")
        ]
