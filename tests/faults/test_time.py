"""zmsd or MongoDB suspended, and clocks that are changed."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.faults.load import MAPPINGS, SCHEMA, empty, exactly, load, received, written
from tests.faults.tally import Tally, pick
from tests.support.chance import chance
from tests.support.clock import Clock
from tests.support.mongod import ReplicaSet
from tests.support.types import Db, Follow, Serve


def test_suspended_zmsd_loses_nothing(loaded: Db, serve: Serve, follow: Follow, tally: Tally) -> None:
    rng = chance(13)
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    with load(loaded, client, tally=tally, threads=1) as writer:
        for seconds in (*(rng.random() for _ in range(pick(3, 20))), pick(6, 90)):
            received(client, 3)
            zmsd.signal(signal.SIGSTOP)
            written(writer, 5)
            exactly(seconds)
            zmsd.signal(signal.SIGCONT)
            tally.survived += 1
        received(client, 3)
    assert not client.closings


def test_suspended_mongodb_loses_nothing(
    tmp_path: Path, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    replica_set = stack.enter_context(ReplicaSet(tmp_path / "set"))
    database = empty(replica_set, stack, "time")
    zmsd = serve(SCHEMA, MAPPINGS, uri=replica_set.uri(database.name))
    client = follow(zmsd)
    pid = replica_set.nodes[0].pid
    assert pid is not None
    with load(database, client, tally=tally, threads=1, exact=False):
        for seconds in pick([6], [1, 5, 30, 90]):
            received(client, 3)
            os.kill(pid, signal.SIGSTOP)
            try:
                exactly(seconds)
            finally:
                os.kill(pid, signal.SIGCONT)
            tally.survived += 1
            received(client, 3)
    assert not client.closings


STEPS = pick([3600, -3600, 0], [1, -1, 3600, -3600, 86400 * 400, -86400 * 400, 0])


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    try:
        return Clock(tmp_path)
    except FileNotFoundError:
        pytest.skip("no C compiler here to make a clock that can be set")


def test_clock_change_of_zmsd_loses_nothing(
    clock: Clock, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, environment=clock.environment, settings={"feed": {"heartbeat": 1}})
    client = follow(zmsd)
    with load(loaded, client, tally=tally, threads=1):
        for seconds in STEPS:
            clock.set(seconds)
            received(client, 10)
            tally.survived += 1
            assert zmsd.ready()
        zmsd.kill()
        clock.set(-3600)
        zmsd.start()
        received(client, 10)
        follow(zmsd, shard=1).close()


def test_clock_change_of_mongodb_loses_nothing(
    clock: Clock,
    tmp_path: Path,
    serve: Serve,
    follow: Follow,
    tally: Tally,
    stack: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cluster time never goes back, whatever the clock does; the commits' wall clock times do."""
    with monkeypatch.context() as patched:
        for name, value in clock.environment.items():
            patched.setenv(name, value)
        replica_set = stack.enter_context(ReplicaSet(tmp_path / "set"))
    database = empty(replica_set, stack, "time")
    client = follow(serve(SCHEMA, MAPPINGS, uri=replica_set.uri(database.name)))
    before = client.replica.watermark
    with load(database, client, tally=tally, threads=1) as writer:
        for seconds in [3600, 0, 7200, 1800]:
            clock.set(seconds)
            written(writer, 20)
            received(client, 5)
            tally.survived += 1
    assert int(client.replica.watermark[1:], 36) - int(before[1:], 36) > 7000 << 32, "the clock was set"
    assert not client.closings
