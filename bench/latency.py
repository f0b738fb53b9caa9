"""Latency: from the call of insert_one to the commit at a client in the same process, a write every 20 ms over five
collections; beside a bare change stream on the database. They take turns, and zmsd is stopped while it is not its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from pymongo.database import Database

from bench.support import counter, report
from bench.support.bare import LiveStream
from bench.support.counter import Live
from bench.support.report import Figure, percentile
from bench.support.scene import Scene, Zmsd, document
from bench.support.timing import paced

COLLECTIONS = 5
BLOCK = 50
"""Writes in a turn."""
_WARM = 5


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    db = scene.fresh(COLLECTIONS)

    def write(number: int) -> None:
        db[f"c{number % COLLECTIONS}"].insert_one(document(number))

    with scene.zmsd(db) as zmsd:
        ours, theirs, _ = by_turns(zmsd, db, write, 1, 6 if short else 30)
    yield report.excess("latency, median", "ms", median(ours), median(theirs), 0.7)
    yield report.excess("latency, 99th percentile", "ms", percentile(ours, 0.99), percentile(theirs, 0.99), 3)


def by_turns(
    zmsd: Zmsd, db: Database[Any], write: Callable[[int], object], changes: int, turns: int
) -> tuple[list[float], list[float], list[int]]:
    """Return the milliseconds to zmsd's client and to the bare stream, and the messages in each of the client's
    transactions."""
    ours: list[float] = []
    theirs: list[float] = []
    watermark, _, _ = counter.copy(zmsd.port)
    with Live(zmsd.port, watermark) as live:
        for _ in range(turns):
            live.skip()
            paced(_WARM, write, lambda: live.arrived(changes))
            live.transactions.clear()
            ours += paced(BLOCK, write, lambda: live.arrived(changes))
            with zmsd.held(), LiveStream(db) as stream:
                paced(_WARM, write, lambda: stream.arrived(changes))
                theirs += paced(BLOCK, write, lambda: stream.arrived(changes))
        return ours, theirs, live.transactions


if __name__ == "__main__":
    report.cli(measure)
