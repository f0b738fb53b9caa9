"""Large transactions, documents and collections, in bounded memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.faults.load import MAPPINGS, SCHEMA, empty, load, received
from tests.faults.tally import Tally, pick
from tests.support.compare import assert_same
from tests.support.mongod import ReplicaSet
from tests.support.types import Db, Follow, Serve

CHANGES = pick(20_000, 200_000)
MB = 1 << 20


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Yield a MongoDB that accepts transactions of any size."""
    arguments = ("--setParameter", "transactionLifetimeLimitSeconds=1000")
    with ReplicaSet(tmp_path_factory.mktemp("roomy"), arguments=arguments) as replica_set:
        replica_set.take_large_transactions()
        yield replica_set


class Memory:
    """Measures the largest resident memory of a process, by frequent samples."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.most = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        return self.most - self.before

    def _look(self) -> None:
        while not self._over.wait(0.02):
            with contextlib.suppress(psutil.Error):
                self.most = max(self.most, self._process.memory_info().rss)


def documents(name: str, count: int) -> list[dict[str, Any]]:
    return [{"_id": f"{name}-{number}", "n": 1, "text": "x" * 100} for number in range(count)]


@pytest.mark.parametrize("meanwhile", pick(["runs"], ["runs", "is down"]))
@pytest.mark.parametrize("scope", ["collection", "database"])
def test_large_transaction_arrives_complete_in_bounded_memory(
    scope: str,
    meanwhile: str,
    roomy: ReplicaSet,
    serve: Serve,
    follow: Follow,
    tally: Tally,
    stack: contextlib.ExitStack,
) -> None:
    """Inserts, then updates of all documents in three collections: each transaction arrives as one."""
    database = empty(roomy, stack, f"{scope}_{meanwhile.replace(' ', '_')}")
    settings = {"feed": {"scope": scope}}
    zmsd = serve(SCHEMA, MAPPINGS, uri=roomy.uri(database.name), settings=settings)
    client = follow(zmsd)
    insert = {name: documents(name, CHANGES // 3) for name in "abc"}
    most = 0
    for step in ("insert", "update"):
        if meanwhile == "is down":
            zmsd.kill()
        else:
            memory = stack.enter_context(Memory(zmsd.pid))
        with database.client.start_session() as session:

            def work(_: Any, step: str = step) -> None:
                for name, some in insert.items():
                    if step == "insert":
                        database[name].insert_many(some, session=session)
                    else:
                        database[name].update_many({}, {"$inc": {"n": 1}}, session=session)

            session.with_transaction(work)
            end = session.operation_time
        if meanwhile == "is down":
            zmsd.start()
            memory = stack.enter_context(Memory(zmsd.pid))
        client.wait_watermark(end, 300)
        most = max(most, memory.grown)
        tally.survived += 1
    sizes = [len(transaction.changes) for transaction in client.transactions()]
    assert sizes == [CHANGES // 3 * 3] * 2
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
    tally.note(f"{CHANGES} changes: RSS grew by {most / MB:.0f} MiB")
    assert most < 150 * MB
    database.client.drop_database(database.name)


@pytest.mark.parametrize("way", ["rename", "out"])
def test_large_collection_that_gets_a_watched_name_is_resynced_in_bounded_memory(
    way: str, roomy: ReplicaSet, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    """The name is taken by a rename, or by $out, which ends in a rename. Later changes wait until the resync is
    complete."""
    database = empty(roomy, stack, f"large_{way}")
    for start in range(0, CHANGES, 10_000):
        some = [{"_id": f"{number}", "n": 1, "text": "x" * 500} for number in range(start, start + 10_000)]
        database.other.insert_many(some)
    zmsd = serve(SCHEMA, MAPPINGS, uri=roomy.uri(database.name))
    client = follow(zmsd)
    with Memory(zmsd.pid) as memory:
        if way == "rename":
            database.other.rename("a", dropTarget=True)
        else:
            database.other.aggregate([{"$out": "a"}])
        database.a.update_many({"_id": {"$gt": "9"}}, {"$inc": {"n": 1}})
        database.b.insert_one({"_id": "end", "n": 0})
        client.wait_rows("b", 1, 300)
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
    tally.survived += 1
    tally.note(f"{CHANGES} documents: RSS grew by {memory.grown / MB:.0f} MiB")
    assert memory.grown < 150 * MB
    database.client.drop_database(database.name)


BIG_SCHEMA = SCHEMA | {
    "big": {
        "tableName": "big",
        "columns": {"id": {"type": "string"}, "n": {"type": "number"}, "text": {"type": "string"}},
        "primaryKey": ["id"],
    }
}
BIG_MAPPINGS = MAPPINGS | {"big": {"collection": "big", "fields": {"id": "_id", "n": "n", "text": "text"}}}


def test_updates_of_15_mb_documents_arrive_complete_and_in_order(
    loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """With both images their events exceed 16 MB; each arrives complete, in order with the other writers' changes."""
    zmsd = serve(BIG_SCHEMA, BIG_MAPPINGS)
    client = follow(zmsd)
    times = pick(4, 30)
    with load(loaded, client, tally=tally, threads=1), Memory(zmsd.pid) as memory:
        for number in range(times):
            text = chr(97 + number % 26) * (15 * MB)
            loaded.big.replace_one({"_id": "big"}, {"text": text, "n": number}, upsert=True)
            received(client, 3)
            tally.survived += 1
        client.wait_for(lambda replica: replica.rows["big"]["big",]["n"] == times - 1, "the last one", 60)
    changes = [c for t in client.transactions() for c in t.changes if c.table == "big" and c.row]
    assert [c.row["n"] for c in changes if c.row] == list(range(times)), "each state was sent"
    assert all(len(c.row["text"]) == 15 * MB for c in changes if c.row)
    assert not client.closings
    tally.note(f"RSS grew by {memory.grown / MB:.0f} MiB")


BOTH = [("collection", "auto"), ("database", "off")]


@pytest.mark.parametrize(("scope", "images"), pick(BOTH, [*BOTH, ("collection", "off"), ("database", "auto")]))
def test_many_updates_of_large_documents_stay_in_bounded_memory(
    scope: str, images: str, replica_set: ReplicaSet, serve: Serve, follow: Follow, stack: contextlib.ExitStack
) -> None:
    """A batch of a thousand changes would have a gigabyte, with images in the events or with look-ups."""
    database = empty(replica_set, stack, f"{scope}_{images}")
    filler = "x" * 250_000
    for hundred in range(15):
        database.a.insert_many([{"_id": f"{hundred}-{n}", "n": 0, "text": filler} for n in range(100)])
    zmsd = serve(
        SCHEMA, MAPPINGS, uri=replica_set.uri(database.name), settings={"feed": {"scope": scope, "images": images}}
    )
    client = follow(zmsd)
    with Memory(zmsd.pid) as memory:
        database.a.update_many({}, {"$inc": {"n": 1}})
        client.wait_for(lambda replica: all(row["n"] == 1 for row in replica.rows["a"].values()), "all", 120)
    print(f"RSS +{memory.grown // MB} MiB")
    assert memory.grown < 600 * MB
