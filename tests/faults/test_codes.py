"""Each error of MongoDB in the table of zmsd/mongodb/errors.py, on each command that reads."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest

from tests.faults.load import COLLECTIONS, MAPPINGS, PAUSE, SCHEMA, caught_up, exactly, load, received, stream_from
from tests.faults.tally import LONG, Tally, pick
from tests.support.client import ChangeSourceClient
from tests.support.compare import assert_same
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer
from zmsd.mongodb.errors import LOST, REFUSED, REOPEN_BY_TIME, RESUME, SNAPSHOT_GONE, SNAPSHOT_RETRY

HEALING = pick([6, 10107, 63, 43], sorted(RESUME))
UNKNOWN = pick([999_999], [8, 96, 999_999])  # codes that the table does not have count as transient
STALE_CONFIG = 13388  # the fail point turns this code into 40671, which is unknown
FAILURES = pick(3, 4)
ONCE_LOST = pick([280, 286, 136], sorted(REOPEN_BY_TIME | LOST))

# A table that mongod computes, by aggregates over documents that zmsd sends: they fail like the others.
EVEN = {"columns": {"id": {"type": "string"}, "half": {"type": "number"}}, "primaryKey": ["id"]}
HALF = {"_id": 0, "id": "$_id", "half": {"$divide": ["$n", 2]}}
WITH_EVEN = SCHEMA | {"even": {"tableName": "even", **EVEN}}
MAPPED = MAPPINGS | {"even": {"source": "c", "filter": {"n": {"$mod": [2, 0]}}, "projection": HALF}}


def fail(replica_set: ReplicaSet, code: int, times: int, *commands: str, **data: Any) -> None:
    """Make zmsd's commands fail that often with this code, and wait until they have failed."""
    before = replica_set.failed()
    with replica_set.failing(*commands, times=times, errorCode=code, **data):
        wait_until(lambda: replica_set.failed() >= before + times, f"{times} × {code} on {commands}", 90)


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_retryable_errors_do_not_reach_the_client(
    scope: str, loaded: Db, replica_set: ReplicaSet, serve: Serve, follow: Follow, tally: Tally
) -> None:
    zmsd = serve(WITH_EVEN, MAPPED, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    with load(loaded, client, tally=tally, threads=1) as writer:
        for code in (*HEALING, *UNKNOWN):
            # An unknown error of an aggregate over documents that zmsd sends counts as an error of the documents.
            unknown = code in UNKNOWN or code == STALE_CONFIG
            fail(replica_set, code, FAILURES, *(["getMore"] if unknown else ["aggregate", "getMore"]))
            received(client, 3)
            tally.survived += FAILURES
        wait_until(zmsd.ready, "it is ready")
        writer.stop()
    assert not client.closings
    assert not zmsd.log("position lost")
    assert_even(loaded, client)


def assert_even(database: Db, client: ChangeSourceClient) -> None:
    expected = {doc["_id"]: doc["n"] / 2 for doc in database.c.find({"n": {"$mod": [2, 0]}})}
    assert {row["id"]: row["half"] for row in client.rows("even").values()} == expected


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_position_error_that_does_not_repeat_causes_no_reset(
    scope: str, loaded: Db, replica_set: ReplicaSet, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """zmsd asks again by cluster time before it sends a reset, and the position is there."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    with load(loaded, client, tally=tally, threads=1):
        for code in ONCE_LOST:
            fail(replica_set, code, 1, "getMore")
            received(client, 3)
            tally.survived += 1
    assert not client.closings
    assert client.replica.reset_required is None


@pytest.mark.parametrize("code", pick([286], sorted(LOST | REOPEN_BY_TIME)))
def test_lost_position_sends_reset_with_reason_and_new_sync_succeeds(
    code: int, loaded: Db, replica_set: ReplicaSet, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """The client gets reset-required with the reason; after its new initial sync everything works again."""
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    with load(loaded, tally=tally, threads=1) as writer:
        received(client)
        with replica_set.failing("aggregate", "getMore", errorCode=code):
            wait_until(lambda: client.replica.reset_required, "reset-required", 30)
            lines = len(zmsd.stderr().splitlines())
            exactly(2)
            said = len(zmsd.stderr().splitlines()) - lines
        tally.survived += 1
        wait_until(zmsd.ready, "it is ready again", 30)
        new_client = follow(zmsd)
        received(new_client)
        writer.stop()
    assert str(client.replica.version) < str(new_client.replica.version)
    caught_up(new_client, writer)
    tally.check(writer.log, new_client.replica)
    assert_same(loaded, SCHEMA, MAPPINGS, new_client.replica)
    # A token that does not fit may be asked for once more when the feed opens again.
    matter = f"{code}|not in this database's history" if code in REOPEN_BY_TIME else f"{code}"
    assert re.search(matter, str(client.replica.reset_required)), "what was the matter"
    assert said < 20, "it does not flood the log"


@pytest.mark.parametrize("code", pick([13], sorted(REFUSED)))
def test_refused_command_makes_zmsd_unready_and_keeps_the_client(
    code: int, loaded: Db, replica_set: ReplicaSet, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """Meanwhile zmsd is not ready and logs the reason once; the client stays connected and misses nothing."""
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    with load(loaded, client, tally=tally, threads=1):
        with replica_set.failing("aggregate", "getMore", errorCode=code):
            wait_until(lambda: zmsd.get("/readyz")[0] == 503, "not ready")
            assert str(code) in zmsd.get("/readyz")[1]
        tally.survived += 1
        wait_until(zmsd.ready, "it is ready again", 30)
        received(client)
    assert not client.closings
    assert 0 < len(zmsd.log(f"WARN.*code {code}|ERROR.*code {code}")) < 10


def test_snapshot_scan_continues_after_each_error_code(
    loaded: Db, replica_set: ReplicaSet, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """Each code is raised on the scan's find and on its getMore; the scan continues where it was."""
    codes = pick([10107, 43, 246, 250], sorted(RESUME | SNAPSHOT_GONE | SNAPSHOT_RETRY))
    with Writer(loaded.client, loaded.name, COLLECTIONS, threads=1, pause=PAUSE) as writer:
        writer.seed(5000)
        zmsd = serve(WITH_EVEN, MAPPED, settings={"server": {"max_sessions_per_address": 64}})
        writer.start()
        clients = []
        for shard, code in enumerate(codes):
            with contextlib.ExitStack() as failing:
                for_c = {"namespace": f"{loaded.name}.c", "errorCode": code}
                failing.enter_context(replica_set.failing("find", "getMore", times=2, **for_c))
                before = len(zmsd.log("initial sync finished"))
                client = follow(zmsd, shard=shard)
                zmsd.wait_log("initial sync finished", count=before + 1)
                tally.survived += 2
            if LONG or shard < 3:
                clients.append((shard, client))
            else:
                client.close()
        writer.stop()
    for shard, client in clients:
        check_copy(loaded, zmsd, writer, client, shard, tally)


def check_copy(
    database: Db, zmsd: ZmsdProcess, writer: Writer, client: ChangeSourceClient, shard: int, tally: Tally
) -> None:
    caught_up(client, writer)
    tally.check(writer.log, client.replica, copied_to=stream_from(zmsd, client, shard))
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
    assert_even(database, client)
