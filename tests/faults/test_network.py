"""Networks that reset, delay or drop, between zmsd and mongod and between the client and zmsd."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from tests.faults.load import MAPPINGS, SCHEMA, exactly, load, random_pause, received, written
from tests.faults.tally import Tally, pick
from tests.support.chance import chance
from tests.support.client import ChangeSourceClient
from tests.support.mongod import ReplicaSet
from tests.support.proxy import Proxy
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR, wait_until

NOTICED = 20.0 * FACTOR
"""Seconds within which a silent network is noticed."""


@pytest.fixture
def to_mongod(replica_set: ReplicaSet, stack: contextlib.ExitStack) -> Proxy:
    return stack.enter_context(Proxy(replica_set.nodes[0].port))


@pytest.fixture
def through(to_mongod: Proxy, loaded: Db) -> str:
    """Return the URI of the database through the proxy. It connects directly, because the set has another address for
    its member."""
    return f"mongodb://127.0.0.1:{to_mongod.port}/{loaded.name}?directConnection=true"


def test_reset_connections_to_mongod_lose_nothing(
    to_mongod: Proxy, through: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    rng = chance(12)
    client = follow(serve(SCHEMA, MAPPINGS, uri=through))
    with load(loaded, client, tally=tally, threads=1):
        for _ in range(pick(10, 100)):
            received(client, rng.randint(1, 5))
            random_pause(rng, 0.2)
            assert to_mongod.reset()
            tally.survived += 1
    assert not client.closings
    tally.note(f"{to_mongod.connections} connections to mongod")


def test_slow_connection_to_mongod_loses_nothing(
    to_mongod: Proxy, through: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """Each reply is delayed, and connections break at random."""
    to_mongod.delay = 0.05
    client = follow(serve(SCHEMA, MAPPINGS, uri=through))
    with load(loaded, client, tally=tally, threads=1):
        for number in range(pick(2, 20)):
            to_mongod.delay = 0.05 if number % 2 else 0.2
            received(client, 10)
            to_mongod.reset()
            tally.survived += 2
    assert not client.closings


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_silent_connections_to_mongod_are_noticed_and_replaced(
    scope: str, to_mongod: Proxy, through: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, uri=through, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    noticed = 0.0
    with load(loaded, client, tally=tally, threads=1) as writer:
        for _ in range(pick(1, 5)):
            received(client, 5)
            to_mongod.silent = True
            begun = time.monotonic()
            wait_until(lambda: not zmsd.ready(), "it is noticed", 60)
            noticed = max(noticed, time.monotonic() - begun)
            tally.survived += 1
            written(writer, 10)
            to_mongod.silent = False
            wait_until(zmsd.ready, "it is ready again", 30)
            received(client, 5)
    tally.note(f"noticed within {noticed:.0f} s")
    assert noticed < NOTICED
    assert not client.closings


def break_off(proxy: Proxy, client: ChangeSourceClient) -> None:
    wait_until(proxy.reset, "there is a connection")


def hold_back(proxy: Proxy, client: ChangeSourceClient) -> None:
    proxy.delay = 0.3
    received(client, 2)
    proxy.delay = 0.0


def swallow(proxy: Proxy, client: ChangeSourceClient) -> None:
    """zero-cache sends pings, and reconnects if no pong arrives."""
    pongs = client.pongs
    proxy.silent = True
    client.ping()
    exactly(1)
    assert client.pongs == pongs
    client.hang_up(reset=False)
    proxy.silent = False


@pytest.mark.parametrize("harm", [break_off, hold_back, swallow])
def test_broken_network_to_one_client_loses_nothing(
    harm: Callable[[Proxy, ChangeSourceClient], None],
    loaded: Db,
    serve: Serve,
    follow: Follow,
    tally: Tally,
    stack: contextlib.ExitStack,
) -> None:
    """One client connects through the proxy; the other client is not affected."""
    zmsd = serve(SCHEMA, MAPPINGS)
    proxy = stack.enter_context(Proxy(zmsd.port))
    far = stack.enter_context(ChangeSourceClient(proxy.port))
    far.wait_initial()
    near = follow(zmsd, shard=1)
    with load(loaded, far, near, tally=tally, threads=1):
        for number in range(pick(4, 40)):
            far.wait_connected(number + 2 if harm is not hold_back else 2)
            received(far, 2)
            harm(proxy, far)
            tally.survived += 1
        received(far, 2)
    assert not near.closings
