"""``kill -9`` of zmsd at random times: the client reconnects with its last commit and misses nothing."""

from __future__ import annotations

import functools
import sqlite3
from contextlib import closing

import pytest

from tests.faults.load import COLLECTIONS, MAPPINGS, PAUSE, SCHEMA, load, random_pause, received, settle, written
from tests.faults.tally import Tally, pick
from tests.support.chance import chance
from tests.support.daemon import ZmsdProcess
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer

KILLS = pick(5, 20)


@pytest.mark.parametrize(("scope", "ack_seconds"), [("auto", 0.0), ("collection", 0.03), ("database", 0.03)])
def test_kill_while_streaming_loses_nothing(
    loaded: Db, serve: Serve, follow: Follow, tally: Tally, scope: str, ack_seconds: float
) -> None:
    """Late acks make zmsd join transactions (feed.join_delay)."""
    rng = chance(4)
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope}})
    client = follow(zmsd, ack_seconds=ack_seconds)
    with load(loaded, client, tally=tally) as writer:
        for number in range(KILLS):
            if number % 4 == 3:
                random_pause(rng, 1.0)  # it may not be ready yet
            else:
                received(client, 20)
                random_pause(rng, 0.5)
            zmsd.kill()
            assert_store_whole(zmsd)
            tally.survived += 1
            written(writer, rng.randrange(50))
            zmsd.launch()
        received(client, 20)
    tally.note(f"{client.connections} connections")


def test_kill_during_initial_sync_loses_nothing(loaded: Db, serve: Serve, follow: Follow, tally: Tally) -> None:
    """zero-cache would sync again with an empty replica."""
    rng = chance(5)
    with Writer(loaded.client, loaded.name, COLLECTIONS, threads=2, pause=PAUSE) as writer:
        writer.seed(pick(20_000, 50_000))
        zmsd = serve(SCHEMA, MAPPINGS)
        writer.start()
        client = follow(zmsd, wait=False, again=True, receive_buffer=1 << 16)

        def copied_or_begun(times: int) -> bool:
            return client.replica.version is not None or len(zmsd.log("initial sync started")) >= times

        for number in range(pick(2, 10)):
            wait_until(functools.partial(copied_or_begun, number + 1), "the initial sync starts", 30)
            if client.replica.version is not None:
                break  # it was faster than us
            random_pause(rng, 0.2)
            zmsd.kill()
            assert_store_whole(zmsd)
            tally.survived += 1
            zmsd.launch()
        client.wait_initial(120)
        assert tally.survived
        written(writer, 50)
        writer.stop()
    settle(loaded, writer, client, tally=tally)


def assert_store_whole(zmsd: ZmsdProcess) -> None:
    with closing(sqlite3.connect(zmsd.directory / "watermarks.db")) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
