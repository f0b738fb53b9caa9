"""Changes/s to a client that only counts, beside a bare change stream on the database that decodes the same events.

live     while they are written, on the same machine: writer and mongod want the processors, too
backlog  written before: zmsd stood still, the bare stream begins at that time

The targets of 40,000 inserts/s and 15,000 updates/s were set on a machine whose plain ``find()`` decodes 550,000
documents/s: beside find() in the same round they hold for any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from pymongo.database import Database

from bench.support import bare, counter, report
from bench.support.bare import BareStream
from bench.support.counter import Count, Follower
from bench.support.drain import Drained, drain
from bench.support.report import Figure
from bench.support.scene import Scene, Zmsd, documents, insert, names, update

COLLECTIONS = 5
INSERTS = 50_000
UPDATES = 20_000
WRITERS = 4
_FIND = 550e3
"""Documents/s of a plain find() on the machine for which the targets were set."""


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    rounds = 2 if short else 5
    db = scene.fresh(COLLECTIONS)
    insert(db, documents(UPDATES), COLLECTIONS)
    ids = [db[name].distinct("_id") for name in names(COLLECTIONS)]
    turn = iter(range(10**6, 2 * 10**6))  # no document has it yet: each update changes something

    def inserts() -> Callable[[], None]:
        docs = documents(INSERTS)
        return lambda: insert(db, docs, COLLECTIONS)

    def updates() -> Callable[[], None]:
        number = next(turn)
        return lambda: update(db, ids, number, WRITERS)

    with scene.zmsd(db) as zmsd:
        watermark, _, _ = counter.copy(zmsd.port)
        with Follower(zmsd.port, watermark) as follower:
            bench = _Bench(scene, db, zmsd, follower)
            for name, make, count, least in (("inserts", inserts, INSERTS, 40e3), ("updates", updates, UPDATES, 15e3)):
                live = [bench.live(make, count) for _ in range(rounds)]
                yield report.value(f"{name} live", "changes/s", [ours for ours, _, _ in live], at_least=least)
                found = [(ours, find) for ours, _, find in live]
                yield report.ratio(f"{name} live, beside find()", "changes/s", found, at_least=round(least / _FIND, 3))
                beside = [(ours, theirs) for ours, theirs, _ in live]
                yield report.ratio(f"{name} live, beside the bare stream", "changes/s", beside, at_least=0.5)
                backlog = [bench.backlog(make, count) for _ in range(rounds)]
                rates = [(drained.rate, theirs) for drained, theirs, _ in backlog]
                yield report.ratio(f"{name} backlog", "changes/s", rates, at_least=0.5)
                cpu = [(drained.zmsd, theirs) for drained, _, theirs in backlog]
                yield report.ratio(f"{name} backlog, its processor time", "µs/change", cpu)
                mongod = [drained.mongod for drained, _, _ in backlog]
                yield report.value(f"{name} backlog, mongod's", "µs/change", mongod)


class _Bench:
    def __init__(self, scene: Scene, db: Database[Any], zmsd: Zmsd, follower: Follower) -> None:
        self._scene = scene
        self._db = db
        self._zmsd = zmsd
        self._follower = follower

    def live(self, make: Callable[[], Callable[[], None]], count: int) -> tuple[float, float, float]:
        """Return the changes/s of zmsd and of the bare stream, and the documents/s of find()."""
        ours, _ = timed(self._follower, count, make())
        write = make()
        self._follower.expect(count)
        with self._zmsd.held(), BareStream(self._scene.uri(self._db)) as stream:
            stream.expect(count)
            started = time.monotonic()
            write()
            theirs = count / (stream.reached().at - started)
            collection = self._db[names(COLLECTIONS)[0]]
            find = collection.estimated_document_count() / bare.find(collection)[0]
        self._follower.reached()
        return ours, theirs, find

    def backlog(self, make: Callable[[], Callable[[], None]], count: int) -> tuple[Drained, float, float]:
        """Return zmsd's figures, the changes/s of the bare stream, and its µs of processor time for a change."""
        write = make()
        begun = self._scene.now()
        alone: list[float] = []

        def both() -> None:
            write()
            with BareStream(self._scene.uri(self._db), begun) as stream:
                started = time.monotonic()
                stream.expect(count)
                got = stream.reached()
                alone.extend((count / (got.at - started), got.cpu / count * 1e6))

        drained = drain(self._scene, self._zmsd, self._follower, count, both)
        return drained, alone[0], alone[1]


def timed(follower: Follower, count: int, write: Callable[[], None]) -> tuple[float, Count]:
    """Return the changes/s from the first write until all sessions have all changes."""
    follower.expect(count)
    started = time.monotonic()
    write()
    got = follower.reached()
    return count / (got.at - started), got


if __name__ == "__main__":
    report.cli(measure)
