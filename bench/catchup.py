"""Catch-up: a client far behind, which reads from a feed of its own; its changes/s beside a backlog of the live feed,
and the latency of a live client meanwhile, beside that before, and beside that of a bare change stream meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from statistics import median

from bench.support import counter, report
from bench.support.bare import LiveStream
from bench.support.counter import Follower, Live
from bench.support.drain import drain
from bench.support.report import Figure, percentile
from bench.support.scene import Scene, document, documents, insert
from bench.support.timing import paced

COLLECTIONS = 5
_PART = 50_000
_BLOCK = 25
_LATE = 1
"""The shard of the one that is behind."""


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    behind = 100_000 if short else 500_000
    db = scene.fresh(COLLECTIONS)

    written: list[float] = []
    streamed: list[float] = []

    def write(number: int) -> None:
        written.append(time.perf_counter())
        db[f"c{number % COLLECTIONS}"].insert_one(document(number))

    zmsd = scene.make_zmsd(db)
    with zmsd:
        zmsd.start()
        old, _, _ = counter.copy(zmsd.port, _LATE)
        with Follower(zmsd.port, old, shard=_LATE) as follower:
            backlogs = [
                drain(scene, zmsd, follower, _PART, partial(insert, db, documents(_PART), COLLECTIONS)).rate
                for _ in range(2 if short else 3)
            ]
        zmsd.stop()
        there = _PART * len(backlogs)
        while there < behind:
            insert(db, documents(_PART), COLLECTIONS)
            there += _PART
        zmsd.start()  # its log begins here
        new, _, _ = counter.copy(zmsd.port)
        with Live(zmsd.port, new) as live, LiveStream(db) as stream:
            live.skip()

            def arrived() -> float:
                streamed.append(stream.arrived(1))
                return live.arrived(1)

            before = paced(4 * _BLOCK, write, arrived)[_BLOCK:]
            with Follower(zmsd.port, old, shard=_LATE) as late:
                started = time.monotonic()
                late.expect(there)
                meanwhile: list[float] = []
                while not late.waiting():
                    meanwhile += paced(_BLOCK, write, arrived)
                rate = there / (late.reached().at - started)
    yield report.ratio("catch-up", "changes/s", [(rate, median(backlogs))], at_least=0.8)
    bare = [1000 * (at - since) for since, at in zip(written, streamed, strict=True)][-len(meanwhile) :]
    for name, of in (("median", median), ("99th percentile", partial(percentile, share=0.99))):
        pair = [(of(meanwhile), of(before))]
        yield report.ratio(f"live client's latency, {name}", "ms", pair, at_most=3)
        yield report.ratio(f"the same, beside the bare stream's, {name}", "ms", [(of(meanwhile), of(bare))])


if __name__ == "__main__":
    report.cli(measure)
