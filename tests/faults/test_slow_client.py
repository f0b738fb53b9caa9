"""A client that stops reading uses no memory of zmsd, and delays no other client."""

from __future__ import annotations

import time

import psutil

from tests.faults.load import COLLECTIONS, MAPPINGS, PAUSE, SCHEMA, forget, settle
from tests.faults.tally import Tally, pick
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer

SECONDS = pick(0, 60)
BYTES = 80 << 20  # more than the change log holds
GROWTH = 100 << 20


def test_client_that_stops_reading_costs_no_memory_and_no_other_client(
    loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    slow, other = follow(zmsd, receive_buffer=1 << 16), follow(zmsd, shard=1)
    process = psutil.Process(zmsd.pid)
    before, most, lag = process.memory_info().rss, 0, 0.0
    with Writer(loaded.client, loaded.name, COLLECTIONS, threads=3, pause=pick(PAUSE, 0)) as writer:
        writer.start()
        wait_until(lambda: slow.replica.transactions, "the writers write")
        slow.stop_reading()
        tally.survived += 1
        seen = len(slow.replica.transactions)
        end = time.monotonic() + SECONDS
        bulk = 0
        while time.monotonic() < end or bulk < BYTES:
            # In addition to the writers' load: memory held for the slow client alone would show.
            filler = "x" * 4000
            loaded.a.insert_many([{"_id": f"big-{number}", "n": 0, "text": filler} for number in range(1000)])
            bulk += 1000 * len(filler)
            with loaded.client.start_session() as session:
                loaded.a.delete_many({"_id": {"$regex": "^big-"}}, session=session)
                written = session.operation_time
            begun = time.monotonic()
            other.wait_watermark(written)
            lag = max(lag, time.monotonic() - begun)
            most = max(most, process.memory_info().rss)
        assert len(slow.replica.transactions) < seen + 1000, "it does not read"
        slow.go_on_reading()
        slow.wait_watermark(written)
        writer.stop()
    tally.note(
        f"RSS {before >> 20} MiB, at most {(most - before) >> 20} more; the other one at most {lag:.1f} s behind"
    )
    for client in (slow, other):
        client.wait_watermark(written)
        forget(client, "big-")
        settle(loaded, writer, client, tally=tally)
    assert zmsd.log("catching up"), "what it missed was no longer in memory"
    assert not slow.closings, "it was served all the time"
    assert most - before < GROWTH
