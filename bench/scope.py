"""feed.scope: database beside collection, with 1 to 50 collections: idle share of a core, latency, changes/s of a
backlog, and what a change takes of zmsd's and mongod's processor time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from pymongo.database import Database

from bench.idle import shares
from bench.support import counter, report
from bench.support.counter import Follower, Live
from bench.support.drain import drain
from bench.support.report import Figure, percentile
from bench.support.scene import Scene, document, documents, insert
from bench.support.timing import paced

_WARM = 5


class Measured(NamedTuple):
    idle_zmsd: float
    idle_mongod: float
    median: float
    p99: float
    rate: float
    zmsd: float
    mongod: float


_NAMES = (
    ("zmsd idle", "%"),
    ("mongod idle", "%"),
    ("latency, median", "ms"),
    ("latency, 99th percentile", "ms"),
    ("backlog", "changes/s"),
    ("zmsd's time", "µs/change"),
    ("mongod's time", "µs/change"),
)


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    """``zmsd`` is scope database, ``yardstick`` is scope collection."""
    for collections in (20,) if short else (1, 5, 20, 50):
        db = scene.fresh(collections)
        rounds = [
            (
                _measured(scene, db, collections, "database", short),
                _measured(scene, db, collections, "collection", short),
            )
            for _ in range(1 if short else 3)
        ]
        for index, (name, unit) in enumerate(_NAMES):
            pairs = [(of_database[index], of_collection[index]) for of_database, of_collection in rounds]
            yield report.ratio(f"database, {collections} collections: {name}", unit, pairs)


def _measured(scene: Scene, db: Database[Any], collections: int, scope: str, short: bool) -> Measured:
    samples, count, seconds = (100, 10_000, 2.0) if short else (300, 30_000, 10.0)

    def write(number: int) -> None:
        db[f"c{number % collections}"].insert_one(document(number))

    with scene.zmsd(db, scope=scope) as zmsd:
        watermark, _, _ = counter.copy(zmsd.port)
        with Live(zmsd.port, watermark) as live, Follower(zmsd.port, watermark) as follower:
            live.skip()
            idle = shares((zmsd.cpu, scene.mongod_cpu), seconds)
            paced(_WARM, write, lambda: live.arrived(1))
            times = paced(samples, write, lambda: live.arrived(1))
            live.stop()
            drained = drain(scene, zmsd, follower, count, partial(insert, db, documents(count), collections))
    p99 = percentile(times, 0.99)
    return Measured(idle[0], idle[1], median(times), p99, drained.rate, drained.zmsd, drained.mongod)


if __name__ == "__main__":
    report.cli(measure)
