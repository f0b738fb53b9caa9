"""zmsd beside Zero's own Postgres source: the real zero-cache with either, and a Zero client that shows the rows.

Each round runs both, one after the other, each with a zero-cache and a database of its own; every second round in
the other order. The first figure is zmsd's, the yardstick is Postgres's.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench import stub
from bench.support import report
from bench.support.report import Figure
from bench.support.scene import Scene
from bench.support.sides import SCHEMA, TABLES, MongoSide, PostgresSide, Side, postgres_cpu, row, zero_cache_cpu
from tests.support.node import workspace
from tests.support.postgres import Postgres
from tests.support.scripts import Api, NodeClient, Row
from tests.support.wait import wait_until
from tests.support.zero import ZeroCache

WRITERS = 16
"""Threads that insert rows singly, each waiting for the majority; with fewer the writers are the limit. One psql is
enough to keep zero-cache busy, because this Postgres does not flush."""
_WRITES = 10
"""Rows of a transaction, over the five tables."""
_PAUSE = 0.05
"""Seconds between two writes whose latency is measured."""
_STREAMER = "change-streamer"
_PROCESSES = {
    _STREAMER: "change-streamer's time",
    "zero-cache": "time of zero-cache's processes",
    "source": "zmsd's time",
    "database": "mongod's, Postgres's time",
    "records": "time of zero-cache's Postgres",
}
_PHASES = ("batch", "single", "backlog")
_KILLED = ("sender", "zero-cache")
_KINDS = ("warm", *_PHASES, *_KILLED)
_PROBE = "probe"

Measured = dict[str, float]


class Bench:
    """What all rounds share: a Postgres for zero-cache's records, one as a source, and an API server."""

    def __init__(self, scene: Scene, stack: contextlib.ExitStack, *, short: bool) -> None:
        self.scene = scene
        self.rows, self.changes, self.probes = (20_000, 5_000, 30) if short else (200_000, 20_000, 100)
        self.workspace = workspace()
        self.records = stack.enter_context(Postgres())
        # Without synchronous_commit the walsender waits for the next run of the WAL writer, every 200 ms.
        settings = {"wal_level": "logical", "max_replication_slots": "30", "max_wal_senders": "30"}
        self.source = stack.enter_context(Postgres(**settings, synchronous_commit="on"))
        self.directory = Path(tempfile.mkdtemp(dir=scene.directory))  # another comparison may run in the same scene
        schema = self.directory / "schema.json"
        schema.write_text(json.dumps(SCHEMA))
        self.env = {"SCHEMA": str(schema)}
        self.api = stack.enter_context(Api(self.workspace, env=self.env))
        self._made = 0

    def name(self) -> str:
        """Return another name for databases and directories."""
        self._made += 1
        return f"zero{self._made}"

    def zmsd(self, *, writers: int = WRITERS, recovery: bool = False, **feed: Any) -> Measured:
        """Measure zmsd.

        :param writers: threads that insert rows singly
        :param recovery: also kill zmsd and zero-cache
        :param feed: settings of the section ``feed``
        """
        with contextlib.ExitStack() as stack:
            return self._measure(MongoSide(self.scene, stack, self.rows, feed, writers), recovery=recovery)

    def postgres(self) -> Measured:
        """Measure Zero's own source, with recovery."""
        with contextlib.ExitStack() as stack:
            return self._measure(PostgresSide(self.source, stack, self.rows, self.name()), recovery=True)

    def _measure(self, side: Side, *, recovery: bool) -> Measured:
        name = self.name()
        cache = ZeroCache(
            self.workspace,
            self.directory / name,
            side.url,
            self.records.create(name),
            query_url=self.api.query_url,
            env=side.environment,
        )

        def cpus() -> Counter[str]:
            return Counter({**zero_cache_cpu(cache.replica), **side.cpu(), "records": postgres_cpu(self.records)})

        before = Counter({**side.cpu(), "records": postgres_cpu(self.records)})
        with cache, NodeClient(self.workspace, cache, every=True, env=self.env) as client:
            used = cpus() - before
            found = {"initial": self.rows / _initial_seconds(cache.log()), f"initial: {_STREAMER}": used[_STREAMER]}
            follower = _Follower(cache, client, self.changes)
            side.insert(TABLES[0], row("warm", self.changes - 1))
            follower.wait("warm")
            found |= follower.latencies(side, self.probes)
            for phase in _PHASES:
                before = cpus()
                with side.held() if phase == "backlog" else contextlib.nullcontext():
                    started = time.monotonic()
                    (side.fill if phase == "batch" else side.single)(phase, self.changes)
                    written = time.monotonic()
                    before = cpus() if phase == "backlog" else before
                started = written if phase == "backlog" else started
                seconds = follower.wait(phase) - started
                found |= {phase: self.changes / seconds, **_of(phase, cpus() - before, self.changes)}
                found[f"{phase} written"] = self.changes / (written - started or 1)
            return found | (self._recovery(side, cache, follower) if recovery else {})

    def _recovery(self, side: Side, cache: ZeroCache, follower: _Follower) -> Measured:
        """Return seconds from the end of a process to the client's view of the next row."""

        def restart() -> None:
            cache.kill()
            cache.start(wait=False)

        cache.restart = True  # from here on; before, its exit is an error
        found: Measured = {}
        for killed, end in zip(_KILLED, (side.kill_sender, restart), strict=True):
            started = time.monotonic()
            end()
            side.insert(TABLES[0], row(killed, self.changes - 1))
            found[killed] = follower.wait(killed) - started
        return found


class _Follower:
    """The Zero client's views: the last row of each kind, and the rows of which the latency is measured."""

    def __init__(self, cache: ZeroCache, client: NodeClient, changes: int) -> None:
        self._cache = cache
        self._client = client
        for kind in _KINDS:
            for table in TABLES:
                arguments = {"table": table, "column": "id", "value": f"{kind}{changes - 1:08}"}
                client.materialize(f"{kind} {table}", "where", arguments)
        for table in TABLES:
            client.materialize(table, "where", {"table": table, "column": "kind", "value": _PROBE})
        wait_until(lambda: all(client.rows(table) is not None for table in TABLES), "the client is connected", 60)

    def wait(self, kind: str) -> float:
        """Wait until the client shows the last row of a kind. Return when it did."""
        return min(self._shown([f"{kind} {table}" for table in TABLES], any, bool))

    def latencies(self, side: Side, count: int) -> Measured:
        """Return the median milliseconds from a write to the client's view."""
        expected = Counter[str]()
        numbers = iter(range(10**6))

        def insert(table: str) -> tuple[str, Row]:
            expected[table] += 1
            return table, row(_PROBE, next(numbers))

        def one(number: int) -> list[str]:
            table, new = insert(TABLES[number % len(TABLES)])
            side.insert(table, new)
            return [table]

        def change(number: int) -> list[str]:
            side.update(TABLES[0], row(_PROBE, 0)["id"], 1000 + number)
            return TABLES[:1]

        def together(number: int) -> list[str]:
            side.insert_together([insert(TABLES[index % len(TABLES)]) for index in range(_WRITES)])
            return TABLES

        found: Measured = {}
        for name, write in (("insert", one), ("update", change), ("transaction", together)):
            times = []
            for number in range(count):
                time.sleep(_PAUSE)
                started = time.monotonic()
                tables = write(number)
                wanted = 1000 + number if write is change else None

                def shows(table: str, wanted: int | None = wanted) -> Callable[[list[Row]], bool]:
                    return lambda rows: len(rows) >= expected[table] and (wanted is None or rows[0]["n"] == wanted)

                shown = [self._shown([table], all, shows(table)) for table in tables]
                times.append(1000 * (max(max(one) for one in shown) - started))
            found[name] = median(times)
        return found

    def _shown(self, views: list[str], enough: Callable[[Any], bool], fact: Callable[[list[Row]], bool]) -> list[float]:
        """Wait until enough views show what is wanted. Return when each of those did."""
        deadline = time.monotonic() + 300
        while True:
            newest = [history[-1] for view in views if (history := self._client.history(view))]
            if len(newest) and enough([fact(rows) for _, rows, _ in newest]):
                return [at for at, rows, _ in newest if fact(rows)]
            self._cache.check()
            self._client.check()
            assert time.monotonic() < deadline, f"{views} do not show the rows, see {self._cache.log_file}"
            time.sleep(0.002)


def _initial_seconds(log: str) -> float:
    """Return how long zero-cache's initial sync took, by its log."""
    from_postgres = re.search(r"Synced [\d,]+ rows of .* total: ([\d.]+)", log)
    return float(from_postgres[1]) / 1000 if from_postgres else stub.initial_seconds(log)


def _of(phase: str, used: Counter[str], rows: int) -> Measured:
    """Return microseconds of processor time for a row, by process."""
    of_zero_cache = {name: seconds for name, seconds in used.items() if name not in _PROCESSES or name == _STREAMER}
    in_all = {**used, _STREAMER: used[_STREAMER], "zero-cache": sum(of_zero_cache.values())}
    return {f"{phase}: {name}": in_all.get(name, 0.0) / rows * 1e6 for name in _PROCESSES}


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    """The yardstick is Zero's Postgres source in the same round."""
    pairs: list[tuple[Measured, Measured]] = []
    with contextlib.ExitStack() as stack:
        bench = Bench(scene, stack, short=short)
        for number in range(2 if short else 4):
            if number % 2:
                theirs = bench.postgres()
                ours = bench.zmsd(recovery=True)
            else:
                ours = bench.zmsd(recovery=True)
                theirs = bench.postgres()
            pairs.append((ours, theirs))
    yield from figures(pairs)
    for killed, name in zip(_KILLED, ("zmsd, walsender", "zero-cache"), strict=True):
        rounds = [(ours[killed], theirs[killed]) for ours, theirs in pairs]
        yield report.ratio(f"{name} killed → next insert in client's view", "s", rounds)


def figures(pairs: list[tuple[Measured, Measured]]) -> Iterator[Figure]:
    """Yield the figures of rounds of (ours, yardstick)."""

    def both(key: str) -> list[tuple[float, float]]:
        return [(ours.get(key, 0.0), theirs.get(key, 0.0)) for ours, theirs in pairs]

    for key, name in (("insert", "insert"), ("update", "update"), ("transaction", "ten rows over five tables")):
        yield report.ratio(f"{name} → client's view, median", "ms", both(key))
    for key, name in (
        ("initial", "initial sync"),
        ("batch", "inserts in batches of 1,000"),
        ("single", "single-row transactions, live"),
        ("backlog", "single-row transactions, backlog"),
    ):
        yield report.ratio(name, "rows/s", both(key))
    yield report.ratio("initial sync, change-streamer's time", "s", both("initial: change-streamer"))
    for phase, name in (("single", "live"), ("backlog", "backlog")):
        for process, text in _PROCESSES.items():
            rounds = both(f"{phase}: {process}")
            yield report.ratio(f"single-row transactions, {name}: {text}", "µs/row", rounds)


if __name__ == "__main__":
    report.cli(measure)
