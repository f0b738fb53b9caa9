"""What of the real zero-cache's throughput is left with zmsd before it: ``python -m bench.stub [ROWS]``.

The measure is a stub that sends the same rows, encoded beforehand, 1,000 in a transaction, as fast as they are taken.

initial  rows/s of the copy, by zero-cache's own log
backlog  single-document writes made while zmsd stood still, until a client shows the last of them
live     the same, written while all of it runs: MongoDB and the writer want the processors, too
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymongo import InsertOne
from pymongo.collection import Collection

from tests.support import stub
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.node import workspace
from tests.support.postgres import Postgres
from tests.support.scripts import Api, NodeClient
from tests.support.wait import wait_until
from tests.support.zero import ZeroCache

COLUMNS = {"id": "string", "name": "string", "n": "number", "done": "boolean", "doc": "json"}
_TYPED = {name: {"type": kind} for name, kind in COLUMNS.items()}
SCHEMA = {"item": {"tableName": "item", "columns": _TYPED, "primaryKey": ["id"]}}
MAPPINGS = {"item": {"collection": "items", "fields": {name: name for name in COLUMNS} | {"id": "_id"}}}
_JOINED = 1000  # rows in a transaction of the stub

Document = dict[str, Any]


def document(kind: str, number: int) -> Document:
    values = {
        "name": f"the name of {number}",
        "n": number,
        "done": number % 2 == 0,
        "doc": {"tags": ["a", "b"], "x": 1},
    }
    return {"_id": f"{kind}{number:08}", **values}


def insert(doc: Document) -> stub.Message:
    row = {"id": doc["_id"], **{name: doc[name] for name in ("name", "n", "done")}, "doc": json.dumps(doc["doc"])}
    return ["data", {"tag": "insert", "relation": stub.relation("item", ["id"]), "new": row}]


class Bench:
    """Start one zero-cache after another, each on a database of its own."""

    def __init__(self, stack: contextlib.ExitStack, rows: int) -> None:
        self.rows = rows
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zmsd-bench-")))
        self._workspace = workspace()
        self._postgres = stack.enter_context(Postgres())
        schema = self.directory / "schema.json"
        schema.write_text(json.dumps(SCHEMA))
        self._env = {"SCHEMA": str(schema)}
        self._api = stack.enter_context(Api(self._workspace, env=self._env))

    @contextlib.contextmanager
    def zero_cache(self, source: str, name: str) -> Iterator[tuple[float, Callable[[str], None]]]:
        """Return the rows/s of its initial sync, and a function that waits until a client shows the row of an id."""
        cache = ZeroCache(
            self._workspace, self.directory / name, source, self._postgres.create(name), query_url=self._api.query_url
        )
        with cache, NodeClient(self._workspace, cache, env=self._env) as client:
            for view in ("w", "b", "l"):
                last = f"{view}{self.rows - 1:08}"
                client.materialize(last, "where", {"table": "item", "column": "id", "value": last})

            def there(last: str) -> bool:
                cache.check()
                return bool(client.rows(last))

            def shown(last: str) -> None:
                wait_until(lambda: there(last), f"{last} is shown", 600)

            wait_until(lambda: client.rows(last) is not None, "the client is connected", 60)
            yield self.rows / initial_seconds(cache.log()), shown


def initial_seconds(log: str) -> float:
    times = []
    for phrase in ("initial sync of shard", "finished initial-sync of"):
        # A record may be spread over lines; the one with the phrase may not be the one with the time.
        before = log[: log.index(phrase)]
        times.append(datetime.fromisoformat(re.findall(r"^\d{4}-\S+", before, re.MULTILINE)[-1]))
    return (times[1] - times[0]).total_seconds()


def with_stub(bench: Bench) -> dict[str, float]:
    """Return the rows/s of initial sync and live stream."""
    rows = range(bench.rows)
    table = stub.create_table("item", COLUMNS, ["id"])
    copied = (insert(document("c", number)) for number in rows)
    initial = stub.frames(stub.transaction(1, [*stub.required_tables(), *table, *copied]))
    streamed = b"".join(
        stub.frames(
            stub.transaction(2 + first, [insert(document("l", number)) for number in rows[first : first + _JOINED]])
        )
        for first in range(0, bench.rows, _JOINED)
    )
    with stub.StubSource(initial) as source, bench.zero_cache(source.url, "stub") as (copy, shown):
        started = time.monotonic()
        source.push(streamed)
        shown(document("l", bench.rows - 1)["_id"])
        return {"initial": copy, "live": bench.rows / (time.monotonic() - started)}


def with_zmsd(bench: Bench) -> dict[str, float]:
    """Return the rows/s of initial sync, backlog and live stream."""
    with ReplicaSet(bench.directory / "mongod") as replicas, replicas.client() as mongo:
        items = mongo["bench"]["items"]
        write(items, "c", bench.rows)
        with ZmsdProcess(bench.directory / "zmsd", replicas.uri("bench"), SCHEMA, MAPPINGS) as process:
            process.start()
            source = f"ws://127.0.0.1:{process.port}/changes/v0/stream"
            with bench.zero_cache(source, "zmsd") as (copy, shown):
                # What happens once, at the first change, is not what is measured.
                items.insert_one(document("w", bench.rows - 1))
                shown(document("w", bench.rows - 1)["_id"])

                process.signal(signal.SIGSTOP)
                write(items, "b", bench.rows)
                started = time.monotonic()
                process.signal(signal.SIGCONT)
                shown(document("b", bench.rows - 1)["_id"])
                backlog = bench.rows / (time.monotonic() - started)

                started = time.monotonic()
                write(items, "l", bench.rows)
                written = time.monotonic() - started
                shown(document("l", bench.rows - 1)["_id"])
                live = bench.rows / (time.monotonic() - started)
            return {"initial": copy, "backlog": backlog, "live": live, "written": bench.rows / written}


def write(items: Collection[Document], kind: str, rows: int) -> None:
    """Write rows that have an oplog entry and a cluster time each."""
    for first in range(0, rows, 1000):
        numbers = range(first, min(first + 1000, rows))
        items.bulk_write([InsertOne(document(kind, number)) for number in numbers])


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        bench = Bench(stack, rows)
        limit = with_stub(bench)
        ours = with_zmsd(bench)
    print(f"{rows} rows, {datetime.now(UTC):%Y-%m-%d %H:%M}, load of the machine before: {load:.1f}")
    for name, measure in (("initial", "initial"), ("backlog", "live"), ("live", "live")):
        of = limit[measure]
        print(f"{name:8} stub {of:8,.0f} rows/s   zmsd {ours[name]:8,.0f} rows/s   {ours[name] / of:.0%}")
    print(f"(the live rows were written at {ours['written']:,.0f} rows/s)")


if __name__ == "__main__":
    main()
