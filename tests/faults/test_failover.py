"""A replica set of three whose primary changes, and whose members die and come back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.faults.load import (
    COLLECTIONS,
    MAPPINGS,
    PAUSE,
    SCHEMA,
    caught_up,
    empty,
    in_copy,
    load,
    random_pause,
    received,
    stream_from,
    written,
)
from tests.faults.tally import Tally, pick
from tests.support.chance import chance
from tests.support.compare import assert_same
from tests.support.mongod import ReplicaSet
from tests.support.types import Follow, Serve
from tests.support.writer import Writer


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path_factory.mktemp("three"), 3) as replica_set:
        yield replica_set


def step_down(replicas: ReplicaSet) -> None:
    replicas.step_down()


def kill_the_primary(replicas: ReplicaSet) -> None:
    primary = replicas.primary()
    primary.kill()
    replicas.primary()
    primary.start()


def kill_a_secondary(replicas: ReplicaSet) -> None:
    secondary = replicas.secondaries()[0]
    secondary.kill()
    secondary.start()


def kill_two(replicas: ReplicaSet) -> None:
    """Kill two of three members: no write succeeds until one of them is back."""
    killed = [replicas.primary(), replicas.secondaries()[0]]
    for node in killed:
        node.kill()
    for node in killed:
        node.start()


HARMS: list[Callable[[ReplicaSet], None]] = [step_down, kill_the_primary, kill_a_secondary, kill_two]


def test_failover_while_streaming_loses_nothing(
    replicas: ReplicaSet, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    rng = chance(11)
    database = empty(replicas, stack, "streamed")
    zmsd = serve(SCHEMA, MAPPINGS, uri=replicas.uri(database.name))
    client = follow(zmsd)
    with load(database, client, tally=tally, exact=False) as writer:
        for harm in pick(HARMS, [harm for _ in range(5) for harm in HARMS]):
            for _ in range(pick(1, 4) if harm is step_down else 1):
                harm(replicas)
                tally.survived += 1
                random_pause(rng, pick(0.5, 3))
            written(writer, 20, 120)
            received(client, timeout=120)
            replicas.wait_all_healthy()
    assert not client.closings, "it stayed connected"
    assert not client.refusals
    tally.note(f"{writer.outages} writes failed at first")


def test_failover_during_initial_sync_loses_nothing(
    replicas: ReplicaSet, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    database = empty(replicas, stack, "copied")
    followers = []
    with Writer(database.client, database.name, COLLECTIONS, threads=2, pause=PAUSE) as writer:
        writer.seed(pick(20_000, 100_000))
        zmsd = serve(SCHEMA, MAPPINGS, uri=replicas.uri(database.name))
        writer.start()
        for shard, harm in enumerate(pick([kill_the_primary], HARMS)):
            client = follow(zmsd, shard=shard, wait=False, receive_buffer=1 << 14)
            in_copy(client, 1000)
            client.stop_reading()
            harm(replicas)
            tally.survived += 1
            client.go_on_reading()
            client.wait_initial(120)
            written(writer, 20, 120)
            replicas.wait_all_healthy()
            followers.append(client)
        writer.stop()
    for shard, client in enumerate(followers):
        caught_up(client, writer)
        tally.check(writer.log, client.replica, exact=False, copied_to=stream_from(zmsd, client, shard))
        assert_same(database, SCHEMA, MAPPINGS, client.replica)
