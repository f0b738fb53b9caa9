"""``make sharded ARGS="--uri mongodb://…"``: whether zmsd is exact on a sharded cluster of yours, with a verdict.

It makes a database of its own, shards its collections, writes to them for a while, single documents and transactions
over several collections, and drops the database at the end. Two clients follow: one from before the writers start,
whose every transaction is checked, and one that joins under load, whose rows are compared at the end. zmsd is killed
(SIGKILL) and started again on the way. The user of the URI needs the roles readWriteAnyDatabase and clusterAdmin.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.support.checker import check
from tests.support.client import ChangeSourceClient
from tests.support.compare import differences
from tests.support.daemon import ZmsdProcess
from tests.support.stub import lexi
from tests.support.types import Db
from tests.support.wait import wait_until
from tests.support.writer import Writer, mappings_of, schema_of
from zmsd.commands.strict_tables import Violation

COLLECTIONS = ("a", "b", "c")
SCHEMA, MAPPINGS = schema_of(COLLECTIONS), mappings_of(COLLECTIONS)
SEEDED = 3000
SECONDS_TO_ARRIVE = 300
"""An idle shard delays the others by up to 10 s (periodicNoopIntervalSecs)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checker and print the verdict. Returns 0 if zmsd was exact, 1 if not, 2 if it could not be tried."""
    parser = argparse.ArgumentParser(prog="make sharded", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--uri", required=True, help="of a mongos, with the user if there is access control")
    parser.add_argument("--writes", type=int, default=5000, help="writes and transactions (default: %(default)s)")
    parser.add_argument("--scope", choices=["auto", "collection", "database"], default="auto", help="feed.scope")
    parser.add_argument("--replica-set", action="store_true", help="try this tool itself, on a replica set")
    options = parser.parse_args(arguments)
    name = f"zmsd_sharded_{secrets.token_hex(4)}"
    with MongoClient[dict[str, Any]](options.uri) as client:
        try:
            shards = _shards(client, sharded=not options.replica_set)
            database = client[name]
            _create(database, sharded=not options.replica_set)
        except (PyMongoError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(f"MongoDB {client.server_info()['version']}, shards: {shards}, feed.scope: {options.scope}", flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="zmsd-sharded-") as directory:
                wrong = _run(database, options, Path(directory))
        except (AssertionError, Violation) as error:
            wrong = [str(error)]
        finally:
            client.drop_database(name)
    for line in wrong:
        print(line)
    print("verdict: NOT EXACT" if wrong else "verdict: exact: 0 lost, 0 twice, 0 torn")
    return 1 if wrong else 0


def _shards(client: MongoClient[dict[str, Any]], *, sharded: bool) -> int:
    """Return the number of shards. Raises ValueError if this is not the kind of deployment that was asked for."""
    is_mongos = client.admin.command("hello").get("msg") == "isdbgrid"
    if is_mongos != sharded:
        raise ValueError("the URI does not lead to a mongos" if sharded else "the URI leads to a mongos")
    return len(client.admin.command("listShards")["shards"]) if sharded else 0


def _create(database: Db, *, sharded: bool) -> None:
    admin = database.client.admin
    if sharded:
        admin.command("enableSharding", database.name)
    for name in COLLECTIONS:
        database.create_collection(name)
        if sharded:
            admin.command("shardCollection", f"{database.name}.{name}", key={"_id": "hashed"}, numInitialChunks=8)


def _run(database: Db, options: argparse.Namespace, directory: Path) -> list[str]:
    """Return what was wrong; nothing if zmsd was exact."""
    settings = {"feed": {"scope": options.scope}, "mongodb": {"database": database.name}}
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(Writer(database.client, database.name, COLLECTIONS, threads=4))
        writer.seed(SEEDED)
        zmsd = stack.enter_context(ZmsdProcess(directory, options.uri, SCHEMA, MAPPINGS, settings=settings))
        zmsd.start(timeout=120)
        first = stack.enter_context(_follow(zmsd, 0))
        started = time.monotonic()
        writer.start(options.writes)
        _wait_written(writer, options.writes // 3)
        second = stack.enter_context(_follow(zmsd, 1))
        _wait_written(writer, options.writes * 2 // 3)
        zmsd.kill()
        zmsd.start(timeout=120)
        writer.wait(3600)
        print(f"{options.writes} writes in {time.monotonic() - started:.0f} s; waiting for them", flush=True)
        last = lexi(writer.last_position())
        for client in (first, second):
            client.wait_for(lambda replica: replica.watermark >= last, "the last write", SECONDS_TO_ARRIVE)
        # Behind mongos the driver's operationTime may be later than the write, so the order of the writes of different
        # threads is not compared.
        report = check(writer.log, first.replica, exact=False)
        kinds = Counter(kind for kind, _ in report.faults)
        print(f"checked {report.writes} writes, {report.changes} changes in {report.transactions} transactions")
        wrong = [f"{kind}: {count}" for kind, count in kinds.items()]
        wrong += [f"{kind}: {what}" for kind, what in report.faults[:10]]
        wrong += differences(database, SCHEMA, MAPPINGS, first.replica)
        wrong += [f"client that joined: {one}" for one in differences(database, SCHEMA, MAPPINGS, second.replica)]
        return wrong


@contextlib.contextmanager
def _follow(zmsd: ZmsdProcess, shard: int) -> Iterator[ChangeSourceClient]:
    with ChangeSourceClient(zmsd.port, shard=shard) as client:
        client.wait_initial(SECONDS_TO_ARRIVE)
        yield client


def _wait_written(writer: Writer, writes: int) -> None:
    enough = SEEDED + writes
    wait_until(lambda: len(writer.log) >= enough or not writer.running, f"{writes} writes", 3600)


if __name__ == "__main__":
    sys.exit(main())
