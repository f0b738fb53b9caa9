"""Tables from one collection, by the value of one field: the copy and live changes with 1, 10 and 50 tables."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import bson
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from bench.support import counter, report
from bench.support.counter import Follower
from bench.support.drain import drain
from bench.support.report import Figure
from bench.support.scene import Scene, document, insert
from bench.throughput import timed


class _Measured(NamedTuple):
    copied: float
    live: float
    backlog: float
    zmsd: float
    mongod: float


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    """The yardstick of 10 and 50 tables is one table, measured in the same round right before."""
    rounds, count, changes = (2, 50_000, 20_000) if short else (5, 200_000, 50_000)
    several = (50,) if short else (10, 50)
    found = [{tables: _measured(scene, tables, count, changes) for tables in (1, *several)} for _ in range(rounds)]
    for tables in several:
        pairs = [(one[tables], one[1]) for one in found]
        of = f"{tables} tables of a collection"
        yield report.ratio(f"{of}: copy", "rows/s", [(x.copied, y.copied) for x, y in pairs], at_least=0.7)
        yield report.ratio(f"{of}: live", "changes/s", [(x.live, y.live) for x, y in pairs], at_least=0.6)
        yield report.ratio(f"{of}: backlog", "changes/s", [(x.backlog, y.backlog) for x, y in pairs])
        yield report.ratio(f"{of}: zmsd's time", "µs/change", [(x.zmsd, y.zmsd) for x, y in pairs])
        yield report.ratio(f"{of}: mongod's time", "µs/change", [(x.mongod, y.mongod) for x, y in pairs])


def _measured(scene: Scene, tables: int, count: int, changes: int) -> _Measured:
    db = scene.fresh()
    insert(db, _documents(count, tables))
    filters = {f"t{number}": ("c0", {"kind": f"kind {number}"}) for number in range(tables)}
    with scene.zmsd(db, scope="database", tables=filters) as zmsd:
        watermark, seconds, messages = counter.copy(zmsd.port)
        assert messages > count, f"{messages} messages for {count} documents"
        with Follower(zmsd.port, watermark) as follower:
            live, _ = timed(follower, changes, _inserts(db, changes, tables))
            drained = drain(scene, zmsd, follower, changes, _inserts(db, changes, tables))
    return _Measured(count / seconds, live, drained.rate, drained.zmsd, drained.mongod)


def _inserts(db: Database[Any], changes: int, tables: int) -> Any:
    return partial(insert, db, _documents(changes, tables))


def _documents(count: int, tables: int) -> list[RawBSONDocument]:
    """Documents of every kind by turns, encoded beforehand."""
    return [
        RawBSONDocument(bson.encode({**document(number), "kind": f"kind {number % tables}"})) for number in range(count)
    ]


if __name__ == "__main__":
    report.cli(measure)
