"""One total order over all collections."""

from __future__ import annotations

import pytest

from tests.faults.tally import pick
from tests.support.checker import check
from tests.support.compare import assert_same
from tests.support.mongod import Client
from tests.support.stub import lexi
from tests.support.types import Db, Follow, Serve
from tests.support.writer import Writer, mappings_of, schema_of

COLLECTIONS = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(("scope", "writes"), [("collection", pick(3_000, 10_000)), ("database", 2_000)])
def test_mixed_writes_of_4_writers_to_5_collections_arrive_in_cluster_time_order(
    scope: str,
    writes: int,
    mongo: Client,
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    schema, mappings = schema_of(COLLECTIONS), mappings_of(COLLECTIONS)
    for name in COLLECTIONS:
        database.create_collection(name)
    client = follow(serve(schema, mappings, settings={"feed": {"scope": scope}}))
    with Writer(mongo, database.name, COLLECTIONS, threads=4) as writer:
        writer.start(writes)
        writer.wait(240)
    client.wait_for(lambda replica: replica.watermark >= lexi(writer.last_position()), "the last write", 60)
    # The client checks that watermarks rise strictly; the checker, that the order is that of clusterTime, transactions
    # are complete, and nothing is lost or repeated.
    report = check(writer.log, client.replica).assert_clean()
    assert report.writes == writes
    assert_same(database, schema, mappings, client.replica)
