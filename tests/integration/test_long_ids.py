"""Transactions of documents whose ``_id`` has kilobytes. A resume token holds the ``_id`` at twice its length, so even
entries of the order stream, which have no documents, can fill the 16 MB of a batch."""

from __future__ import annotations

import pytest
from pymongo.client_session import ClientSession

from tests.faults.tally import pick
from tests.integration.chat import named, table
from tests.support.compare import assert_same
from tests.support.mongod import ReplicaSet
from tests.support.types import Db, Follow, Serve

SCHEMA = named(a=table(id="string", n="number"), b=table(id="string", n="number"))
MAPPINGS = {name: {"collection": name, "fields": {"id": "_id", "n": "n"}} for name in "ab"}


SOME = [("collection", 12, 900), ("database", 40, 440)]


@pytest.mark.parametrize(
    ("scope", "kilobytes", "count"), pick(SOME, [*SOME, ("collection", 40, 440), ("database", 12, 900)])
)
def test_transaction_with_long_ids_arrives_complete(
    scope: str,
    kilobytes: int,
    count: int,
    replica_set: ReplicaSet,
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    replica_set.take_large_transactions()
    for name in "ab":
        database.create_collection(name)
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope}})
    client = follow(zmsd)

    def write(session: ClientSession) -> None:
        for name in "ab":
            documents = [{"_id": f"{n:06d}{'x' * kilobytes * 1024}", "n": n} for n in range(count // 2)]
            database[name].insert_many(documents, session=session)

    with database.client.start_session() as session:
        session.with_transaction(write)
    database.a.insert_one({"_id": "last", "n": 0})
    client.wait_for(lambda replica: ("last",) in replica.rows["a"], "the last one", 120)
    assert zmsd.running()
    assert max(len(one.changes) for one in client.transactions()) == count
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
