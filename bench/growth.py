"""What grows with what: processor time of an initial sync and of inserts, by columns, document size, computed tables,
sessions, and clients that begin together. Each line is beside the smallest size of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import bson
from bson.raw_bson import RawBSONDocument

from bench.support import counter, report
from bench.support.counter import Follower
from bench.support.drain import drain
from bench.support.report import Figure
from bench.support.scene import COLUMNS, Document, Scene, document, insert

COLUMN_COUNTS = (6, 50, 300)
TEXT_KIB = (0, 3, 30, 300)
COMPUTED_TABLES = (0, 1, 3, 10)
SESSIONS = (1, 4, 16, 64)
CLIENTS = (1, 2, 4, 8)


class _Case(NamedTuple):
    """Documents, and the tables that are made of them."""

    make: Callable[[int], Document]
    """Number -> document."""
    columns: dict[str, str]
    """Column -> type; ``id`` is read from ``_id``, each other column from the field of its name."""
    count: int
    """Documents of the initial sync, and inserts after it."""
    computed: int = 0
    """Computed tables of the same collection, beside the plain one."""


class _Times(NamedTuple):
    """Microseconds of processor time for a document."""

    copied: float
    copied_mongod: float
    inserted: float
    inserted_mongod: float


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    rounds, scale = (1, 5) if short else (3, 1)
    wide = [(size, _wide(size, 100_000 // scale // size * 6)) for size in COLUMN_COUNTS]
    yield from _curve(scene, rounds, wide, "columns")
    large = [(size, _large(size, min(40_000, 150_000 // (size + 1)) // scale)) for size in TEXT_KIB]
    yield from _curve(scene, rounds, large, "KiB more text")
    computed = [(size, _Case(document, COLUMNS, 20_000 // scale, size)) for size in COMPUTED_TABLES]
    yield from _curve(scene, rounds, computed, "computed tables")
    yield from _sessions(scene, rounds, 20_000 // scale)
    yield from _together(scene, rounds, 100_000 // scale)


def _wide(columns: int, count: int) -> _Case:
    more = [f"c{number}" for number in range(columns - len(COLUMNS))]
    values = {name: number if number % 2 else f"value {number}" for number, name in enumerate(more)}
    types = {name: "number" if isinstance(value, int) else "string" for name, value in values.items()}
    return _Case(lambda number: {**document(number), **values}, {**COLUMNS, **types}, count)


def _large(kib: int, count: int) -> _Case:
    text = "lorem ipsum dolor si" * 52 * kib  # 1,040 bytes
    return _Case(lambda number: {**document(number), "more": text}, {**COLUMNS, "more": "string"}, count)


def _curve(scene: Scene, rounds: int, cases: Sequence[tuple[int, _Case]], of: str) -> Iterator[Figure]:
    first: _Times | None = None
    for size, case in cases:
        found = [_measured(scene, case) for _ in range(rounds)]
        beside = first = first or _Times(*(median(column) for column in zip(*found, strict=True)))
        for number, (name, whose) in enumerate(
            (kind, who) for kind in ("copy", "insert") for who in ("zmsd", "mongod")
        ):
            values = [times[number] for times in found]
            yield report.value(f"{size} {of}: {name}, {whose}", "µs/doc", values, beside=beside[number])


def _measured(scene: Scene, case: _Case) -> _Times:
    db = scene.fresh()
    insert(db, _encoded(case))
    spec = {"columns": {name: {"type": kind} for name, kind in case.columns.items()}, "primaryKey": ["id"]}
    fields = {name: "_id" if name == "id" else name for name in case.columns}
    mappings: dict[str, Any] = {"plain": {"collection": "c0", "fields": fields}}
    for number in range(case.computed):
        doubled = {"$add": [{"$multiply": ["$n", 2]}, number]}
        mappings[f"computed{number}"] = {"source": "c0", "projection": {**_paths(fields), "n": doubled}}
    with scene.running(db, dict.fromkeys(mappings, spec), mappings, {}) as zmsd:
        before = zmsd.cpu(), scene.mongod_cpu()
        watermark, _, messages = counter.copy(zmsd.port)
        copied = [now - then for now, then in zip((zmsd.cpu(), scene.mongod_cpu()), before, strict=True)]
        assert messages > case.count * len(mappings), messages
        with Follower(zmsd.port, watermark) as follower:
            drained = drain(scene, zmsd, follower, case.count * len(mappings), partial(insert, db, _encoded(case)))
    per_document = [seconds / case.count * 1e6 for seconds in copied]
    return _Times(*per_document, drained.zmsd * len(mappings), drained.mongod * len(mappings))


def _paths(fields: dict[str, str]) -> dict[str, str]:
    return {name: f"${path}" for name, path in fields.items()}


def _encoded(case: _Case) -> list[RawBSONDocument]:
    return [RawBSONDocument(bson.encode(case.make(number))) for number in range(case.count)]


def _sessions(scene: Scene, rounds: int, count: int) -> Iterator[Figure]:
    case = _Case(document, COLUMNS, count)
    db = scene.fresh()
    used: dict[int, list[float]] = {sessions: [] for sessions in SESSIONS}
    with scene.zmsd(db) as zmsd:
        watermark, _, _ = counter.copy(zmsd.port)
        for _ in range(rounds):
            for sessions in SESSIONS:
                with Follower(zmsd.port, watermark, sessions) as follower:
                    drained = drain(scene, zmsd, follower, count, partial(insert, db, _encoded(case)))
                watermark = drained.got.watermark
                used[sessions].append(drained.zmsd)
    for sessions in SESSIONS:
        beside = median(used[SESSIONS[0]])
        yield report.value(f"{sessions} sessions: insert, zmsd", "µs/doc", used[sessions], beside=beside)


def _together(scene: Scene, rounds: int, count: int) -> Iterator[Figure]:
    """Initial syncs of several clients at once. Each reads MongoDB by itself."""
    db = scene.fresh()
    insert(db, _encoded(_Case(document, COLUMNS, count)))
    used: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    with scene.zmsd(db) as zmsd:
        for _ in range(rounds):
            for clients in CLIENTS:
                before = zmsd.cpu()
                with ThreadPoolExecutor(clients) as pool:
                    list(pool.map(partial(counter.copy, zmsd.port), range(clients)))
                used[clients].append((zmsd.cpu() - before) / count / clients * 1e6)
    for clients in CLIENTS:
        beside = median(used[CLIENTS[0]])
        yield report.value(f"{clients} clients begin: copy, zmsd", "µs/row", used[clients], beside=beside)


if __name__ == "__main__":
    report.cli(measure)
