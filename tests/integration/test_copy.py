"""The initial sync: large, at one cluster time, during a write load."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.tally import pick
from tests.support.checker import check
from tests.support.compare import assert_same
from tests.support.mongod import Client
from tests.support.stub import lexi
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer, mappings_of, schema_of

COLLECTIONS = ("a", "b", "c")
DOCUMENTS = pick(20_000, 50_000)


def test_writes_during_initial_sync_of_many_documents_arrive(
    mongo: Client,
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    schema, mappings = schema_of(COLLECTIONS), mappings_of(COLLECTIONS)
    with Writer(mongo, database.name, COLLECTIONS, threads=2) as writer:
        writer.seed(DOCUMENTS)
        zmsd = serve(schema, mappings)
        writer.start()
        wait_until(lambda: len(writer.log) > DOCUMENTS + 20, "the writers write")
        before = len(writer.log)
        client = follow(zmsd)
        after = len(writer.log)
        wait_until(lambda: len(writer.log) > after + 50, "the writers go on")
        writer.stop()
    assert after > before + 10, "the writers wrote all through the copy"
    client.wait_for(lambda replica: replica.watermark >= lexi(writer.last_position()), "the last write")
    check(writer.log, client.replica).assert_clean()
    assert_same(database, schema, mappings, client.replica)


def test_initial_sync_of_a_missing_database_is_empty(
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    """Neither the collections nor the database exist yet."""
    client = follow(serve(schema_of(COLLECTIONS), mappings_of(COLLECTIONS)))
    assert all(client.rows(name) == {} for name in COLLECTIONS)
    database.b.insert_one({"_id": "first", "n": 1})
    assert client.wait_rows("b", 1)["first",]["n"] == 1


@pytest.mark.images
def test_initial_sync_reads_ids_of_mixed_types(
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    ids: list[Any] = [*range(10), *(f"s{number}" for number in range(10)), *({"of": number} for number in range(10))]
    database.mixed.insert_many([{"_id": key, "name": f"name {number}"} for number, key in enumerate(ids)])
    spec = {"columns": {"name": {"type": "string"}}, "primaryKey": ["name"]}
    client = follow(serve({"mixed": {"tableName": "mixed", **spec}}))
    assert len(client.rows("mixed")) == 30


def test_initial_sync_keeps_to_its_highest_speed(database: Db, serve: Serve, follow: Follow) -> None:
    database.mixed.insert_many([{"_id": number} for number in range(1500)])
    spec = {"columns": {"_id": {"type": "number"}}, "primaryKey": ["_id"]}
    zmsd = serve({"mixed": spec}, settings={"feed": {"initial_sync_rows_per_second": 1000}})
    begun = time.monotonic()
    client = follow(zmsd)
    assert time.monotonic() - begun >= 1.5
    assert len(client.rows("mixed")) == 1500
