"""Transactions of ten writes over five collections, from the call of the first write to the commit at the client,
beside a bare change stream on the database; each must arrive as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from bench.latency import COLLECTIONS, by_turns
from bench.support import report
from bench.support.report import Figure, percentile
from bench.support.scene import Scene, document

_WRITES = 10


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    db = scene.fresh(COLLECTIONS)

    def write(number: int) -> None:
        with scene.client.start_session() as session, session.start_transaction():
            for index in range(_WRITES):
                db[f"c{index % COLLECTIONS}"].insert_one(document(number), session=session)

    with scene.zmsd(db) as zmsd:
        ours, theirs, sizes = by_turns(zmsd, db, write, _WRITES, 3 if short else 12)
    yield report.value("transactions, median", "ms", [median(ours)], beside=median(theirs), at_most=12)
    p99 = percentile(ours, 0.99)
    yield report.value("transactions, 99th percentile", "ms", [p99], beside=percentile(theirs, 0.99))
    whole = sum(size == _WRITES for size in sizes) / len(sizes)
    yield report.value("transactions, arrived whole", "%", [100 * whole], at_least=100)


if __name__ == "__main__":
    report.cli(measure)
