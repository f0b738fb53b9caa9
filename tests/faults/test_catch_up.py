"""Clients whose position is older than the change log: each reads a catch-up feed until it meets the log."""

from __future__ import annotations

import signal
from urllib.parse import urlencode

import psutil

from tests.faults.load import (
    COLLECTIONS,
    MAPPINGS,
    SCHEMA,
    caught_up,
    forget,
    load,
    random_pause,
    received,
    settle,
    written,
)
from tests.faults.tally import Tally, pick
from tests.support.chance import chance
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.websocket import WebSocket
from tests.support.writer import Writer


def writer_on(database: Db, **options: float) -> Writer:
    return Writer(database.client, database.name, COLLECTIONS, threads=2, **options)  # type: ignore[arg-type]


def test_catch_up_of_more_clients_than_feeds_serves_all(loaded: Db, serve: Serve, follow: Follow, tally: Tally) -> None:
    """All clients reconnect at once after zmsd was down: some wait for a catch-up feed, and each gets everything."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"catch_up": 2}})
    clients = [follow(zmsd, shard=shard) for shard in range(6)]
    with writer_on(loaded) as writer:
        writer.start(pick(1500, 12_000))
        for client in clients:
            received(client)
        zmsd.kill()
        writer.wait(300)
    zmsd.start()
    for client in clients:
        settle(loaded, writer, client, tally=tally)
        tally.survived += 1
    assert zmsd.log("waiting for a catch-up feed")
    tally.note(f"{len(zmsd.log('waiting for a catch-up feed'))} waited for one of 2 feeds")


def test_stop_closes_clients_that_wait_for_a_catch_up_feed_without_reset(
    loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"catch_up": 1}})
    client = follow(zmsd)
    client.close()
    filler = "x" * 50_000
    with loaded.client.start_session() as session:
        for _ in range(4):
            loaded.a.insert_many([{"n": 0, "text": filler} for _ in range(100)], session=session)
        end = session.operation_time
    zmsd.kill()
    zmsd.start()
    version = client.replica.version
    blocker = WebSocket(zmsd.port, receive_buffer=4096)
    try:
        query = urlencode({"appID": "x", "shardNum": "0", "lastWatermark": version, "replicaVersion": version})
        blocker.upgrade(f"/changes/v0/stream?{query}", {})  # and never reads
        zmsd.wait_log("catching up")
        waiting = follow(zmsd, replica=client.replica, wait=False)
        zmsd.wait_log("waiting for a catch-up feed")
        zmsd.signal(signal.SIGTERM)
        wait_until(lambda: waiting.closings, "who waits is let go")
        blocker.abort()
        assert zmsd.wait_exit() == 0
        zmsd.start()
        waiting.wait_watermark(end)
        assert waiting.replica.reset_required is None
        tally.survived += 1
    finally:
        blocker.abort()


def test_client_behind_the_change_log_catches_up_in_bounded_memory(
    loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """The change log keeps 64 MiB in memory; the rest comes from the oplog and does not accumulate in memory."""
    zmsd = serve(SCHEMA, MAPPINGS)
    client, live = follow(zmsd), follow(zmsd, shard=1)
    process = psutil.Process(zmsd.pid)
    with writer_on(loaded, pause=0.01) as writer:
        writer.start()
        received(client)
        client.close()
        before = process.memory_info().rss
        filler = "x" * 100_000
        for _ in range(pick(14, 80)):
            loaded.other.insert_many([{"text": filler} for _ in range(70)])
            # Also published. The checker ignores these rows, which are deleted in the end.
            loaded.a.insert_many([{"_id": f"big-{number}", "n": 0, "text": filler} for number in range(70)])
            with loaded.client.start_session() as session:
                loaded.a.delete_many({"_id": {"$regex": "^big-"}}, session=session)
                end = session.operation_time
        live.wait_watermark(end)
        back = follow(zmsd, shard=0, replica=client.replica, wait=False)
        zmsd.wait_log("caught up", 60)
        written(writer, 50)
        grown = process.memory_info().rss - before
        writer.stop()
    for one in (back, live):
        caught_up(one, writer)
        forget(one, "big-")
        settle(loaded, writer, one, tally=tally)
    tally.survived += 1
    tally.note(f"RSS grew by {grown >> 20} MiB")
    assert grown < 400 << 20, "the log, and a few batches of 16 MB each"


def test_clients_that_reconnect_with_different_delays_get_everything(
    loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """Each client is behind by a different time."""
    rng = chance(7)
    zmsd = serve(SCHEMA, MAPPINGS)
    clients = [follow(zmsd, shard=shard) for shard in range(4)]
    with load(loaded, tally=tally) as writer:
        for number in range(pick(16, 200)):
            index = rng.randrange(len(clients))
            clients[index].close()
            if number % 10 == 9:
                zmsd.kill()
                zmsd.start()
            random_pause(rng, 0.5)
            clients[index] = follow(zmsd, shard=index, replica=clients[index].replica, wait=False)
            tally.survived += 1
    for client in clients:
        settle(loaded, writer, client, tally=tally)
