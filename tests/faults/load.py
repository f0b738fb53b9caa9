"""Run writers during a fault test, and check at the end that each client has received everything."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Iterator
from typing import Any

from tests.faults.tally import Tally, pick
from tests.support.client import ChangeSourceClient
from tests.support.compare import assert_same
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.stub import lexi
from tests.support.types import Db
from tests.support.wait import wait_until
from tests.support.writer import Writer, mappings_of, schema_of
from zmsd.watermarks.base import Replica as ReplicaKey
from zmsd.watermarks.sqlite import SqliteStore

COLLECTIONS = ("a", "b", "c")
PAUSE = pick(0.05, 0.005)
"""Seconds between two writes of a thread, which writes as long as a test waits: this slows down the other workers."""
SCHEMA, MAPPINGS = schema_of(COLLECTIONS), mappings_of(COLLECTIONS)


@contextlib.contextmanager
def load(
    database: Db, *clients: ChangeSourceClient, tally: Tally, exact: bool = True, timeout: float = 120, **options: Any
) -> Iterator[Writer]:
    """Run writers on COLLECTIONS, and check afterwards that each client has received exactly what they committed.

    ``options`` are those of Writer.
    """
    with Writer(database.client, database.name, COLLECTIONS, **{"threads": 2, "pause": PAUSE, **options}) as writer:
        writer.start()
        yield writer
        writer.stop(timeout)
    for client in clients:
        settle(database, writer, client, tally=tally, exact=exact, timeout=timeout)


def settle(
    database: Db, writer: Writer, client: ChangeSourceClient, *, tally: Tally, exact: bool = True, timeout: float = 120
) -> None:
    """Wait until the client has caught up with the writers, which have ended, and check what it received."""
    caught_up(client, writer, timeout)
    tally.check(writer.log, client.replica, exact=exact)
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
    assert client.replica.reset_required is None


def caught_up(client: ChangeSourceClient, writer: Writer, timeout: float = 120) -> None:
    last = lexi(writer.last_position())
    client.wait_for(lambda replica: replica.watermark >= last, "the last write", timeout)


def written(writer: Writer, more: int, timeout: float = 60) -> None:
    """Wait for ``more`` writes."""
    enough = len(writer.log) + more
    wait_until(lambda: len(writer.log) >= enough, f"{more} more writes", timeout)


def received(client: ChangeSourceClient, more: int = 1, timeout: float = 60) -> None:
    """Wait for ``more`` transactions."""
    enough = len(client.replica.transactions) + more
    client.wait_for(lambda replica: len(replica.transactions) >= enough, f"{more} more transactions", timeout)


def in_copy(client: ChangeSourceClient, rows: int) -> None:
    """Wait until that many rows of the initial sync have arrived."""

    def there() -> bool:
        opened = client.replica._open
        return opened is not None and len(opened.changes) >= rows

    wait_until(there, f"{rows} rows of the copy", 60)


def stream_from(zmsd: ZmsdProcess, client: ChangeSourceClient, shard: int = 0) -> str:
    """Return the watermark up to which the client's initial sync has the changes."""
    store = SqliteStore(zmsd.directory / "watermarks.db")
    with contextlib.closing(store):
        record = store.replica(ReplicaKey("zero", shard, str(client.replica.version)))
    assert record is not None
    return record.copies[0].stream_from


def forget(client: ChangeSourceClient, prefix: str) -> None:
    """Hide the changes of documents that no Writer wrote from the checker. These documents are deleted in the end."""
    with client._changed:
        transactions = client.replica.transactions
        for index, transaction in enumerate(transactions):
            kept = tuple(change for change in transaction.changes if not change.key[0].startswith(prefix))
            transactions[index] = dataclasses.replace(transaction, changes=kept)


def random_pause(rng: random.Random, most: float) -> None:
    """Pause for a random time of up to ``most`` seconds, so that the fault occurs at no particular point."""
    exactly(rng.random() * most)


def exactly(seconds: float) -> None:
    """Let a fault last for that long."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, "a while", seconds + 1)


def empty(replica_set: ReplicaSet, stack: contextlib.ExitStack, name: str) -> Db:
    """Yield a database of a replica set of the test's own, with the collections that the writers write."""
    database: Db = stack.enter_context(replica_set.client())[name]
    for collection in COLLECTIONS:
        database.create_collection(collection)
    return database
