"""Changes from before the images were on, for a client that resumes there: every table is correct in the end."""

from __future__ import annotations

import copy
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.tally import pick
from tests.integration.chat import named, table
from tests.integration.test_state import COLLECTIONS, FROM_ID, MAPPINGS, SCHEMA, Writes, compare
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import Client, ReplicaSet, wait_history_gone
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR, wait_until
from zmsd.deadline import Deadline

pytestmark = pytest.mark.images


def come_back(client: Client, database: Db, zmsd: ZmsdProcess, follow: Follow) -> ChangeSourceClient:
    """Return a client that was away, with zmsd, while there were no images, and that has caught up with MongoDB."""
    writes = Writes(client, database, seed=4)
    writes.batch()
    first = follow(zmsd.start())
    compare(database, first, tuple(SCHEMA))
    first.close()
    assert zmsd.stop() == 0
    for name in COLLECTIONS:
        database.command({"collMod": name, "changeStreamPreAndPostImages": {"enabled": False}})
    for _ in range(3):
        writes.batch()
    zmsd.start()
    back = follow(zmsd, replica=first.replica, wait=False)
    back.wait_watermark(writes.batch())
    compare(database, back, tuple(SCHEMA))
    return back


def truncated(client: ChangeSourceClient) -> set[str]:
    return {change.table for one in client.replica.transactions for change in one.changes if change.tag == "truncate"}


@pytest.mark.parametrize("scope", pick(["collection"], ["collection", "database"]))
def test_change_without_image_is_read_at_its_cluster_time(
    scope: str, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """Look-ups succeed as long as the server keeps that history."""
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope}}, start=False)
    back = come_back(mongo, database, zmsd, follow)
    assert not truncated(back)


@pytest.mark.parametrize("scope", pick(["database"], ["collection", "database"]))
def test_change_without_image_and_history_resyncs_its_table(
    scope: str, forgetful: ReplicaSet, serve: Serve, follow: Follow
) -> None:
    """Tables are resynced, except those whose key follows from ``_id`` alone."""
    with forgetful.client() as client:
        settings = {"feed": {"scope": scope}}
        zmsd = serve(SCHEMA, MAPPINGS, settings=settings, uri=forgetful.uri("forgetful"), start=False)
        back = come_back(client, client.forgetful, zmsd, follow)
        assert truncated(back) == set(SCHEMA) - set(FROM_ID)
        (one, *_) = zmsd.wait_log("table resync.*line")
        assert "without the document before" in one
        # Later changes have images and are sent change by change.
        transactions = len(back.replica.transactions)
        client.forgetful.orders.insert_one({"_id": "late", "lines": [{"sku": "p"}, {"sku": "q"}]})
        wait_until(lambda: len(back.replica.transactions) > transactions, "the new order")
        client.forgetful.orders.delete_one({"_id": "late"})
        back.wait_for(lambda replica: ("late-0",) not in replica.rows["line"], "it is gone")
        assert [change.tag for one in back.replica.transactions[transactions:] for change in one.changes] == [
            *("insert", "insert", "delete", "delete")
        ]


# ONE TABLE, WHOSE KEY DOES NOT FOLLOW FROM _id

ONE = named(one=table(id="string", n="number"), end=table(id="string"))
BY_CODE = {
    "one": {"collection": "one", "fields": {"id": "code"}},
    "end": {"collection": "ends", "fields": {"id": "_id"}},
}
scopes = pytest.mark.parametrize("scope", ["collection", "database"])


def images(database: Db, on: bool, name: str = "one") -> None:
    database.command({"collMod": name, "changeStreamPreAndPostImages": {"enabled": on}})


def codes(database: Db, client: ChangeSourceClient) -> set[str]:
    """Return the keys of the rows, once everything that was written has arrived."""
    name = str(database.ends.insert_one({"_id": f"end {database.ends.count_documents({})}"}).inserted_id)
    client.wait_for(lambda replica: (name,) in replica.rows["end"], name)
    return {str(key) for (key,) in client.rows("one")}


@scopes
@pytest.mark.parametrize("what", ["key", "filter"])
@pytest.mark.parametrize("how", ["apart", "transaction"])
def test_change_without_image_of_a_deleted_document_is_exact(
    how: str, what: str, scope: str, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """For the delete, only the document after the earlier change is known, which had no row, or a different row."""
    database.one.insert_many([{"_id": str(n), "code": f"c{n}", "kind": "user"} for n in range(3)])
    database.create_collection("ends")
    by_id = {"collection": "one", "fields": {"id": "_id"}, "filter": {"kind": "user"}}
    mappings = BY_CODE if what == "key" else {**BY_CODE, "one": by_id}
    zmsd = serve(ONE, mappings, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    change = {"$set": {"code": "moved", "kind": "system"}}
    zmsd.signal(signal.SIGSTOP)
    images(database, False)
    if how == "apart":
        database.one.update_one({"_id": "0"}, change)
        images(database, True)
        database.one.delete_one({"_id": "0"})
    else:
        with mongo.start_session() as session, session.start_transaction():
            database.one.update_one({"_id": "0"}, change, session=session)
            database.one.delete_one({"_id": "0"}, session=session)
    zmsd.signal(signal.SIGCONT)
    assert codes(database, client) == ({"c1", "c2"} if what == "key" else {"1", "2"})


@scopes
def test_large_transaction_in_a_new_collection_is_exact(
    scope: str, mongo: Client, database: Db, serve: Serve, follow: Follow
) -> None:
    """The document before each change is what an earlier batch of the same transaction left."""
    schema = {**ONE, "other": {"tableName": "other", **table(id="string", n="number")}}
    mappings = {**BY_CODE, "other": {"collection": "one", "fields": {"id": "_id"}}}
    zmsd = serve(schema, mappings, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    for name in ("one", "ends"):
        database.create_collection(name)
    with mongo.start_session() as session, session.start_transaction():
        database.one.insert_many([{"_id": name, "code": f"{name}0", "n": 1} for name in "xyz"], session=session)
        database.one.insert_many([{"_id": f"f{n}", "code": f"f{n}"} for n in range(1500)], session=session)
        database.one.update_one({"_id": "x"}, {"$set": {"code": "x1"}}, session=session)
        database.one.delete_one({"_id": "y"}, session=session)
        database.one.replace_one({"_id": "z"}, {"_id": "z", "n": 3}, session=session)
    assert codes(database, client) == {one["code"] for one in database.one.find({"code": {"$exists": True}})}
    assert {key for (key,) in client.rows("other")} == {one["_id"] for one in database.one.find()}


def replace_it(database: Db) -> None:
    """Another collection takes the name, and changes."""
    database.create_collection("other", changeStreamPreAndPostImages={"enabled": True})
    database.other.insert_many([{"_id": "p", "code": "p"}, {"_id": "q", "code": "q"}])
    database.other.rename("one", dropTarget=True)
    database.one.insert_one({"_id": "r", "code": "r"})
    database.one.delete_one({"_id": "q"})


@scopes
def test_rename_before_a_resync_is_part_of_it(scope: str, database: Db, serve: Serve, follow: Follow) -> None:
    database.one.insert_many([{"_id": n, "code": f"c{n}"} for n in range(3)])
    database.create_collection("ends")
    zmsd = serve(ONE, BY_CODE, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    zmsd.signal(signal.SIGSTOP)
    images(database, False)
    database.one.delete_one({"_id": 0})
    images(database, True)
    replace_it(database)
    zmsd.signal(signal.SIGCONT)
    assert codes(database, client) == {"p", "r"}


@scopes
def test_rename_before_a_schema_change_is_part_of_it(scope: str, database: Db, serve: Serve, follow: Follow) -> None:
    database.one.insert_one({"_id": "old", "code": "old"})
    database.create_collection("ends")
    zmsd = serve(ONE, BY_CODE, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    client.close()
    replace_it(database)
    schema = copy.deepcopy(ONE)
    schema["one"]["columns"]["m"] = {"type": "number", "optional": True}
    zmsd.write(schema)
    zmsd.signal(signal.SIGHUP)
    zmsd.wait_log("feed runs", count=2)
    assert codes(database, follow(zmsd, replica=client.replica)) == {"p", "r"}


def test_client_of_a_daemon_that_was_ahead_gets_everything(forgetful: ReplicaSet, serve: Serve, follow: Follow) -> None:
    """The client has the resync of the other daemon, which was made at another time."""
    with forgetful.client() as mongo:
        database = mongo.two
        database.one.insert_many([{"_id": n, "code": f"c{n}", "n": 0} for n in range(3)])
        database.create_collection("ends")
        one, other = (serve(ONE, BY_CODE, uri=forgetful.uri("two")) for _ in range(2))
        client = follow(one)
        for zmsd in (one, other):
            zmsd.signal(signal.SIGSTOP)
        images(database, False)
        database.one.update_one({"_id": 0}, {"$set": {"n": 1}})
        at = forgetful.now()
        images(database, True)
        database.filler.insert_one({})
        wait_history_gone(database, at)
        one.signal(signal.SIGCONT)
        client.wait_for(lambda replica: replica.rows["one"][("c0",)]["n"] == 1, "the fresh copy")
        client.close()
        database.one.update_one({"_id": 1}, {"$set": {"n": 7}})
        other.signal(signal.SIGCONT)
        other.wait_log("table resync")
        back = follow(other, replica=client.replica, wait=False)
        codes(database, back)
        assert back.rows("one")[("c1",)]["n"] == 7


@pytest.mark.long
@pytest.mark.parametrize("scope", pick(["collection"], ["collection", "database"]))
def test_initial_sync_during_a_resync_has_all_rows(scope: str, tmp_path: Path, serve: Serve, follow: Follow) -> None:
    """Between the change without an image and the time of the resync, the stream skips the table: a client that
    begins there needs both.
    """
    arguments = ("--setParameter", "minSnapshotHistoryWindowInSeconds=4", "--syncdelay", "1")
    with ExitStack() as stack:
        replicas = stack.enter_context(ReplicaSet(tmp_path / "set", arguments=arguments))
        mongo = stack.enter_context(replicas.client())
        database = mongo.gap
        database.create_collection("ends")
        database.one.insert_many([{"_id": n, "code": f"c{n}", "n": 0} for n in range(200)])
        zmsd = serve(ONE, BY_CODE, uri=replicas.uri("gap"), settings={"feed": {"scope": scope}})
        first = follow(zmsd)
        zmsd.signal(signal.SIGSTOP)
        # A backlog that ends with a change without images, whose history is gone when it is read.
        for number in range(200):
            database.ends.insert_many([{"_id": f"{number} {n}"} for n in range(100)])
        images(database, False)
        database.one.update_one({"_id": 0}, {"$set": {"n": 1}})
        images(database, True)
        wait_history_gone(database, replicas.now())
        zmsd.signal(signal.SIGCONT)
        clients = [first, *(follow(zmsd, shard=shard, wait=False) for shard in (1, 2))]
        number = 1
        deadline = Deadline(60 * FACTOR)
        while not zmsd.log("table resync"):
            assert deadline.remaining() > 0, "the table is reread"
            number += 1
            code = {"code": f"d{number}", "n": number}
            database.one.update_one({"_id": 20 + number % 180}, {"$set": code})
        for client in clients:
            client.wait_initial()
            assert codes(database, client) == {one["code"] for one in database.one.find()}
