"""Initial syncs that take longer than MongoDB keeps history, or that are interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp

from tests.faults.load import COLLECTIONS, MAPPINGS, SCHEMA, caught_up, in_copy, stream_from, written
from tests.faults.tally import Tally, pick
from tests.support.chance import chance
from tests.support.compare import assert_same
from tests.support.mongod import ReplicaSet, wait_history_gone
from tests.support.types import Db, Follow, Serve
from tests.support.writer import Writer

SEED = pick(20_000, 200_000)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """A MongoDB that keeps its history for 2 seconds, instead of 300."""
    arguments = ("--setParameter", "minSnapshotHistoryWindowInSeconds=2", "--syncdelay", "1")
    with ReplicaSet(tmp_path_factory.mktemp("forgetful"), arguments=arguments) as replica_set:
        yield replica_set


@pytest.mark.parametrize("scope", pick(["database"], ["collection", "database"]))
def test_initial_sync_longer_than_history_replays_changes_since(
    scope: str, forgetful: ReplicaSet, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    """The scan continues with current documents and adds the changes since its beginning, in the same transaction."""
    mongo = stack.enter_context(forgetful.client())
    database = mongo[f"long_{scope}"]
    for name in COLLECTIONS:
        database.create_collection(name)
    with Writer(mongo, database.name, COLLECTIONS, threads=2, pause=0.002) as writer:
        writer.seed(SEED)
        zmsd = serve(SCHEMA, MAPPINGS, uri=forgetful.uri(database.name), settings={"feed": {"scope": scope}})
        writer.start()
        begun = forgetful.now()
        client = follow(zmsd, wait=False, receive_buffer=1 << 14)
        in_copy(client, 1000)
        client.stop_reading()
        wait_history_gone(database, begun)
        written(writer, 100)
        client.go_on_reading()
        client.wait_initial(120)
        written(writer, 100)
        writer.stop()
    caught_up(client, writer)
    assert zmsd.log("continues with majority reads")
    assert zmsd.log("replaying changes since")
    tally.survived += 1
    copied_to = stream_from(zmsd, client)
    assert copied_to > str(client.replica.version)
    tally.check(writer.log, client.replica, copied_to=copied_to)
    assert_same(database, SCHEMA, MAPPINGS, client.replica)


def test_initial_sync_longer_than_history_with_changing_keys_is_exact(
    forgetful: ReplicaSet, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    """The scan reads rows with keys that they get only in later changes, which follow."""
    mongo = stack.enter_context(forgetful.client())
    database = mongo["keys"]
    schema = {
        "city": {"columns": {"code": {"type": "string"}, "name": {"type": "string"}}, "primaryKey": ["code"]},
        "a": {"columns": {"_id": {"type": "string"}}, "primaryKey": ["_id"]},
    }
    database.city.insert_many({"_id": number, "code": f"{number}-0", "name": "x" * 500} for number in range(SEED))
    database.create_collection("a")
    zmsd = serve(schema, uri=forgetful.uri(database.name))
    begun = forgetful.now()
    client = follow(zmsd, wait=False, receive_buffer=1 << 14)
    in_copy(client, 1000)
    client.stop_reading()
    rng = chance(9)
    codes = dict.fromkeys(range(SEED), 0)
    for number in rng.choices(range(SEED - 200, SEED), k=500):  # several times each
        codes[number] += 1
        database.city.update_one({"_id": number}, {"$set": {"code": f"{number}-{codes[number]}"}})
    wait_history_gone(database, begun)
    client.go_on_reading()
    client.wait_initial(120)
    assert zmsd.log("replaying changes since")
    tally.survived += 1
    database.a.insert_one({"_id": "end"})
    client.wait_rows("a", 1)
    assert_same(database, {**schema, "city": {**schema["city"]}}, None, client.replica)


IDS: list[Any] = [
    MinKey(),
    *range(-400, 400),
    *(Int64(1 << 40) + number for number in range(300)),
    *(number + 0.5 for number in range(300)),
    *(Decimal128(f"{number}.25") for number in range(300)),
    float("nan"),
    float("inf"),
    *(f"s{number}" for number in range(1500)),
    *({"of": number} for number in range(300)),
    *({"a": 1, "b": number} for number in range(300)),
    *({"b": number, "a": 1} for number in range(300)),
    *(Binary(bytes((number % 256, number // 256))) for number in range(700)),
    *(ObjectId() for _ in range(1500)),
    False,
    True,
    *(datetime.fromtimestamp(number, UTC) for number in range(700)),
    *(Timestamp(number, 1) for number in range(1, 700)),
    MaxKey(),
]


@pytest.mark.parametrize("exact", [True, False])
def test_snapshot_scan_interrupted_at_every_batch_reads_ids_of_every_type(
    exact: bool, database: Db, replica_set: ReplicaSet, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """The scan continues after the last ``_id``, whatever the type of that ``_id`` and of the next one."""
    documents = [{"_id": key, "name": f"n{number}", "text": "x" * 2000} for number, key in enumerate(IDS)]
    chance(10).shuffle(documents)
    database.mixed.insert_many(documents)
    columns = {"name": {"type": "string"}, "text": {"type": "string"}}
    zmsd = serve({"mixed": {"tableName": "mixed", "columns": columns, "primaryKey": ["name"]}})
    namespace = f"{database.name}.mixed"
    before = replica_set.failed()
    with contextlib.ExitStack() as failing:
        if not exact:
            failing.enter_context(replica_set.failing("getMore", times=1, errorCode=246, namespace=namespace))
        client = follow(zmsd, wait=False, receive_buffer=1 << 14)
        in_copy(client, 1)
        client.stop_reading()
        failing.enter_context(
            replica_set.failing("getMore", probability=0.7, closeConnection=True, namespace=namespace)
        )
        client.go_on_reading()
        client.wait_initial()
    assert bool(zmsd.log("continues with majority reads")) is not exact
    tally.survived += replica_set.failed() - before
    tally.note(f"{tally.survived} of {len(IDS) // 1000} batches at first")
    assert {key[0] for key in client.rows("mixed")} == {document["name"] for document in documents}
