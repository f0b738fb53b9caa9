"""The tools of the other tests: the client on a known source, the writers on a real oplog."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import pytest

from tests.support.checker import check
from tests.support.client import ChangeSourceClient
from tests.support.mongod import Client, ReplicaSet
from tests.support.stub import StubSource, create_table, frames, lexi, relation, required_tables, transaction
from tests.support.types import Db
from tests.support.wait import wait_until
from tests.support.writer import Write, Writer, row_of
from zmsd.commands.strict_replica import Change, Replica, Transaction
from zmsd.errors import Violation

ITEM = create_table("item", {"id": "string", "n": "number"}, ["id"])
INITIAL = frames(transaction(100, [*required_tables(), *ITEM]))
COLLECTIONS = ("a", "b", "c")


def insert(key: str, n: int) -> list[Any]:
    return ["data", {"tag": "insert", "relation": relation("item", ["id"]), "new": {"id": key, "n": n}}]


def test_client_syncs_streams_acknowledges_and_reconnects() -> None:
    with StubSource(INITIAL) as source, ChangeSourceClient(source.port) as client:
        client.wait_initial()
        source.push(frames(transaction(101, [insert("a", 1)])))
        assert client.wait_rows("item", 1) == {("a",): {"id": "a", "n": 1}}
        source.wait_ack(101)
        client.hang_up()
        client.wait_connected(3)
        wait_until(lambda: len(source.connections) == 3, "the third connection is seen")
        assert source.connections[0] == {"appID": ["zero"], "shardNum": ["0"]}
        assert source.connections[2]["lastWatermark"] == [lexi(101)]
        assert source.connections[2]["replicaVersion"] == [lexi(100)]


@pytest.mark.parametrize(("coalesced", "marks"), [(True, [100, 100, 103, 103]), (False, [100, 101, 102, 103])])
def test_client_acknowledges_as_its_version_of_zero_cache(coalesced: bool, marks: list[int]) -> None:
    """1.10 acknowledges several commits at once, and after a reconnect the last one again, which 1.9 does not."""
    with StubSource(INITIAL) as source, ChangeSourceClient(source.port, coalesced=coalesced) as client:
        client.wait_initial()
        source.push(b"".join([frames(transaction(mark, [insert(str(mark), 1)])) for mark in (101, 102, 103)]))
        client.wait_rows("item", 3)
        source.wait_ack(103)
        client.hang_up()
        client.wait_connected(3)
        wait_until(lambda: len(source.connections) == 3, "the third connection is seen")
        wait_until(lambda: source.acks == [lexi(mark) for mark in marks], "the acks")


def test_client_raises_violation_of_the_source() -> None:
    with StubSource(INITIAL) as source, ChangeSourceClient(source.port) as client:
        client.wait_initial()
        source.push(frames(transaction(100, [])))
        with pytest.raises(Violation, match="does not rise"):
            client.wait_rows("item", 1)
        with pytest.raises(Violation):
            client.close()
        client.close(check=False)
        client._error = None  # reported; the end of the ``with`` block adds nothing


def test_client_raises_on_interleaved_frames() -> None:
    with StubSource(INITIAL) as source, ChangeSourceClient(source.port) as client:
        client.wait_initial()
        text = frames([insert("a", 1)])
        source.push(text[:10] + b"\x8a\x01?" + text[10:])
        with pytest.raises(Violation):
            client.wait_rows("item", 1)
        client._error = None


def test_client_stops_and_resumes_reading() -> None:
    with StubSource(INITIAL) as source, ChangeSourceClient(source.port, receive_buffer=4096) as client:
        client.wait_initial()
        client.stop_reading()
        for mark in range(101, 601):
            source.push(frames(transaction(mark, [insert(f"{mark}" + "x" * 10_000, 1)])))
        assert len(client.rows("item")) < 500
        client.go_on_reading()
        client.wait_rows("item", 500)


def test_client_raises_on_a_truncated_initial_sync() -> None:
    with StubSource(INITIAL[:200]) as source, ChangeSourceClient(source.port) as client:
        wait_until(lambda: client.connections, "the client is connected")
        source.close()
        with pytest.raises(Violation, match="cut short"):
            client.wait_initial()
        client._error = None


@pytest.fixture
def written(mongo: Client, database: Db) -> Writer:
    """Return a Writer that has made 600 writes."""
    writer = Writer(mongo, database.name, COLLECTIONS, threads=3)
    writer.seed(30)
    with writer.start(600):
        writer.wait()
    return writer


def test_writer_log_equals_the_content_of_mongodb(database: Db, written: Writer) -> None:
    expected: dict[str, Any] = {}
    for write in sorted(written.log, key=lambda write: write.position):
        for part in write.parts:
            expected[part.collection, part.id] = part.doc
    actual = {(name, doc["_id"]): doc for name in COLLECTIONS for doc in database[name].find()}
    assert actual == {key: doc for key, doc in expected.items() if doc is not None}
    assert written.outages == 0


def test_writer_log_has_the_position_of_each_write(replica_set: ReplicaSet, database: Db, written: Writer) -> None:
    with replica_set.primary().client() as client:
        oplog = client.local["oplog.rs"]
        positions = {
            entry["ts"].time << 32 | entry["ts"].inc
            for entry in oplog.find(
                {
                    "$or": [
                        {"ns": {"$regex": f"^{database.name}\\."}},
                        {"o.applyOps.ns": {"$regex": f"^{database.name}\\."}},
                    ]
                }
            )
        }
    missing = [write for write in written.log if write.position not in positions]
    assert not missing, missing[:3]
    assert len({write.position for write in written.log if write.number > 30}) == 600


def replica_of(log: list[Write], copied: int) -> Replica:
    """Return a replica that received the log correctly: the first writes in its initial sync, then each write as a
    transaction."""
    replica = Replica()
    writes = sorted(log, key=lambda write: write.position)
    for index, write in enumerate(writes):
        changes = [
            Change(
                "insert" if part.doc else "delete",
                part.collection,
                (part.id,),
                None,
                row_of(part.doc) if part.doc else None,
            )
            for part in write.parts
        ]
        mark = lexi(write.position)
        if index < copied:
            before = replica.initial.changes if replica.initial else ()
            replica.initial = Transaction(mark, 1, (*before, *changes), time.time())
            replica.version = mark
        else:
            replica.transactions.append(Transaction(mark, 1, tuple(changes), time.time()))
    return replica


def test_checker_finds_each_kind_of_error_and_no_other(written: Writer) -> None:
    good = replica_of(written.log, 100)
    report = check(written.log, good).assert_clean()
    assert report.transactions == report.writes >= 500

    def faults(replica: Replica) -> set[str]:
        return {kind for kind, _ in check(written.log, replica).faults}

    several = next(i for i, transaction in enumerate(good.transactions) if len(transaction.changes) > 1)

    joined = copy.copy(good)  # many joined into one, as in a backlog: correct
    joined.transactions = [
        Transaction(
            good.transactions[-1].watermark, 1, tuple(c for t in good.transactions for c in t.changes), time.time()
        )
    ]
    assert faults(joined) == set()

    lost = copy.copy(good)
    lost.transactions = [*good.transactions[:7], *good.transactions[8:]]
    assert faults(lost) == {"lost"}

    twice = copy.copy(good)
    twice.transactions = [*good.transactions, dataclasses.replace(good.transactions[-1], watermark="zz")]
    assert faults(twice) == {"twice"}

    torn = copy.copy(good)
    whole = good.transactions[several]
    torn.transactions = [
        *good.transactions[:several],
        dataclasses.replace(whole, changes=whole.changes[:1]),
        dataclasses.replace(whole, changes=whole.changes[1:], watermark=whole.watermark + ".01"),
        *good.transactions[several + 1 :],
    ]
    assert faults(torn) == {"torn"}

    late = copy.copy(good)
    late.transactions = [*good.transactions[:5], good.transactions[6], good.transactions[5], *good.transactions[7:]]
    assert "order" in faults(late)

    assert good.initial is not None
    short = copy.copy(good)
    short.initial = dataclasses.replace(good.initial, changes=good.initial.changes[1:])
    assert faults(short) == {"copy"}
