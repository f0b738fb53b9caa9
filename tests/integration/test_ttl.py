"""Deletes by a TTL index, which MongoDB 7.0 gives one cluster time for ten documents without images."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from bson import Timestamp
from pymongo.errors import OperationFailure

from tests.integration.chat import named, table
from tests.support.client import ChangeSourceClient, watermark_of
from tests.support.mongod import ReplicaSet
from tests.support.types import Db, Follow, Serve

SCHEMA = named(a=table(id="string"))
MAPPINGS = {"a": {"collection": "a", "fields": {"id": "_id"}}}
DOCUMENTS = 500
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def expiring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """A replica set that looks for expired documents every second."""
    arguments = ("--setParameter", "ttlMonitorSleepSecs=1")
    with ReplicaSet(tmp_path_factory.mktemp("expiring"), arguments=arguments) as own:
        with own.client() as client, contextlib.suppress(OperationFailure):  # unknown before 6.1
            # A batch of 100 events then ends within the deletes of one cluster time.
            client.admin.command("setParameter", 1, batchedDeletesTargetBatchDocs=7)
        yield own


def deletes_by_time(database: Db, since: Timestamp) -> dict[str, set[str]]:
    """Return the deletes that a change stream shows: watermark -> ids."""
    found: dict[str, set[str]] = defaultdict(set)
    with database.watch([{"$match": {"operationType": "delete"}}], start_at_operation_time=since) as stream:
        while sum(map(len, found.values())) < DOCUMENTS:
            event = stream.next()
            found[watermark_of(event["clusterTime"])].add(event["documentKey"]["_id"])
    return found


def check_deletes(database: Db, client: ChangeSourceClient, since: Timestamp) -> None:
    """Every delete came once, and those of one cluster time in one transaction."""
    sent = [
        (transaction.watermark, change.key[0])
        for transaction in client.replica.transactions
        for change in transaction.changes
        if change.tag == "delete"
    ]
    assert len(sent) == DOCUMENTS
    for ids in deletes_by_time(database, since).values():
        assert len({watermark for watermark, key in sent if key in ids}) == 1, f"torn: {sorted(ids)}"


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_documents_that_expire_are_deleted_exactly_once(
    scope: str, expiring: ReplicaSet, serve: Serve, follow: Follow
) -> None:
    with expiring.client() as mongo:
        jobs = []
        for images in ("auto", "off"):
            database = mongo[f"{scope}_{images}"]
            database.a.create_index("expires", expireAfterSeconds=0)
            settings = {"feed": {"scope": scope, "images": images}}
            client = follow(serve(SCHEMA, MAPPINGS, uri=expiring.uri(database.name), settings=settings))
            jobs.append((database, client, expiring.now()))
        for database, _, _ in jobs:
            database.a.insert_many([{"_id": f"{number}", "expires": LONG_AGO} for number in range(DOCUMENTS)])
        for database, client, since in jobs:
            client.wait_for(
                lambda replica: (
                    sum(change.tag == "delete" for one in replica.transactions for change in one.changes) >= DOCUMENTS
                ),
                "all deletes",
                120,
            )
            check_deletes(database, client, since)
            assert client.rows("a") == {}
