"""Another database, or an older state of it, answers at the address: zmsd always reports it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bson import Timestamp

from tests.integration.chat import named, table
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from zmsd.demo.mongod import initiate

SCHEMA = named(note=table(id="string", text="string"))
MAPPINGS = {"note": {"collection": "notes", "fields": {"id": "_id"}}}


@pytest.fixture
def own_set(tmp_path: Path) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path / "set") as own:
        yield own


def write(own: ReplicaSet, *names: str) -> None:
    with own.client() as client:
        client.app.notes.insert_many([{"_id": name, "text": name} for name in names])


@pytest.mark.long
@pytest.mark.parametrize("running", [True, False], ids=["zmsd_runs", "zmsd_was_down"])
@pytest.mark.parametrize("kind", ["restored", "another"])
def test_restored_or_other_database_sends_reset(
    kind: str, running: bool, own_set: ReplicaSet, tmp_path: Path, follow: Follow
) -> None:
    (node,) = own_set.nodes
    write(own_set, "old")
    node.stop()
    saved = tmp_path / "saved"
    shutil.copytree(node.directory / "data", saved)
    node.start()
    own_set.primary()
    with ZmsdProcess(tmp_path / "zmsd", own_set.uri("app"), SCHEMA, MAPPINGS) as zmsd:
        zmsd.start()
        client = follow(zmsd, again=True)
        write(own_set, "lost1")
        client.wait_rows("note", 2)
        write(own_set, "lost2")
        client.wait_rows("note", 3)
        zmsd.wait_log("feed runs")
        if not running:
            client.close()
            zmsd.stop()
        node.stop()
        shutil.rmtree(node.directory / "data")
        if kind == "restored":
            shutil.copytree(saved, node.directory / "data")
        node.start()
        if kind == "another":
            initiate([node])
        own_set.primary()
        write(own_set, "new")
        if not running:
            zmsd.start()
            client = follow(zmsd, replica=client.replica, wait=False)
        client.wait_for(lambda replica: replica.reset_required, "reset-required", 60)
        print(client.replica.reset_required)
        fresh = follow(zmsd)
        names = {"new"} if kind == "another" else {"old", "new"}
        fresh.wait_for(lambda replica: {key[0] for key in replica.rows["note"]} == names, "the copy is right")


def test_other_database_of_the_same_replica_set_sends_reset(
    database: Db, replica_set: ReplicaSet, serve: Serve, follow: Follow
) -> None:
    """mongodb.database was changed, and the store was kept."""
    other = database.client[f"{database.name}-2"]
    database.notes.insert_one({"_id": "here", "text": "t"})
    other.notes.insert_one({"_id": "there", "text": "t"})
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    client.wait_rows("note", 1)
    client.close()
    zmsd.stop()
    zmsd.write(settings={"mongodb": {"uri": replica_set.uri(other.name)}})
    zmsd.start()
    other.notes.insert_one({"_id": "new", "text": "t"})
    client = follow(zmsd, replica=client.replica, wait=False)
    client.wait_for(lambda replica: replica.reset_required, "reset-required")
    assert f"(that was {database.name})" in str(client.replica.reset_required)
    assert set(client.rows("note")) == {("here",)}
    assert set(follow(zmsd).rows("note")) == {("there",), ("new",)}
    other.client.drop_database(other.name)


def write_later(own: ReplicaSet, seconds: int, name: str) -> Timestamp:
    """Write at a cluster time ahead of the clock, as on a machine whose clock is ahead, and return the time."""
    with own.client() as client, client.start_session() as session:
        ahead = Timestamp(own.now().time + seconds, 1)
        session.advance_cluster_time({"clusterTime": ahead, "signature": {"hash": bytes(20), "keyId": 0}})
        client.app.notes.insert_one({"_id": name, "text": name}, session=session)
        assert session.operation_time is not None
        return session.operation_time


def replace(own: ReplicaSet) -> None:
    """Start another replica set at the same address."""
    (node,) = own.nodes
    node.stop()
    shutil.rmtree(node.directory / "data")
    node.start()
    initiate([node])
    own.primary()


def test_other_database_whose_clock_is_behind_sends_reset(own_set: ReplicaSet, tmp_path: Path, follow: Follow) -> None:
    """The client's watermark is above everything stored, and above the time at which the other database appeared."""
    write(own_set, "old")
    with ZmsdProcess(tmp_path / "zmsd", own_set.uri("app"), SCHEMA, MAPPINGS) as zmsd:
        zmsd.start()
        client = follow(zmsd)
        write(own_set, "lost1")
        client.wait_rows("note", 2)
        cluster_time = write_later(own_set, 20, "lost2")  # before the next checkpoint
        client.wait_rows("note", 3)
        zmsd.kill()
        client.close()
        replace(own_set)
        write(own_set, "new1")
        zmsd.start()
        zmsd.wait_log("is not the one that was read before")
        zmsd.wait_log("feed runs", count=2)
        assert write_later(own_set, 30, "new2") > cluster_time
        back = follow(zmsd, replica=client.replica, wait=False)
        back.wait_for(lambda replica: replica.reset_required, "reset-required")
        assert "is not the one that was read before" in str(back.replica.reset_required)
        follow(zmsd).wait_rows("note", 2)


def test_initial_sync_waits_until_the_clock_passes_the_former_database(
    own_set: ReplicaSet, tmp_path: Path, follow: Follow
) -> None:
    """Otherwise its watermark could mean a position of either database."""
    write_later(own_set, 1000, "old")
    with ZmsdProcess(tmp_path / "zmsd", own_set.uri("app"), SCHEMA, MAPPINGS) as zmsd:
        zmsd.start()
        client = follow(zmsd)
        client.wait_rows("note", 1)
        client.close()
        zmsd.stop()
        replace(own_set)
        write(own_set, "new")
        zmsd.start(ready=False)
        zmsd.wait_log(r"cluster time is \d+ s behind the last position read from the former database")
        status, why = zmsd.get("/readyz")
        assert status == 503
        assert "check the MongoDB host's clock" in why
        write_later(own_set, 1010, "later")
        zmsd.wait_log("feed runs", count=2)
        back = follow(zmsd, replica=client.replica, wait=False)
        back.wait_for(lambda replica: replica.reset_required, "reset-required")
        fresh = follow(zmsd)
        fresh.wait_rows("note", 2)
        assert fresh.replica.version > client.replica.version


def test_replica_of_the_new_database_is_not_reset_again(own_set: ReplicaSet, tmp_path: Path, follow: Follow) -> None:
    """The last change of the former database is stored, and must not be searched for in the new one."""
    write(own_set, "old")
    with ZmsdProcess(tmp_path / "zmsd", own_set.uri("app"), SCHEMA, MAPPINGS) as zmsd:
        zmsd.start()
        client = follow(zmsd)
        cluster_time = write_later(own_set, 100, "lost")
        client.wait_rows("note", 2)
        client.close()
        zmsd.stop()
        replace(own_set)
        write(own_set, "new1")
        zmsd.start(ready=False)
        zmsd.wait_log("s behind the last position read from the former database")
        assert write_later(own_set, 110, "new2") > cluster_time
        zmsd.wait_log("feed runs", count=2)
        fresh = follow(zmsd)
        fresh.wait_rows("note", 2)
        connections = fresh.connections
        fresh.hang_up()
        fresh.wait_connected(connections + 1)
        write(own_set, "new3")
        fresh.wait_rows("note", 3)
        assert not fresh.replica.reset_required


# AN OLDER STATE


@pytest.fixture
def saved(own_set: ReplicaSet, tmp_path: Path) -> Path:
    """Return the files of the set from when it had one document, "old"."""
    write(own_set, "old")
    (node,) = own_set.nodes
    node.stop()
    shutil.copytree(node.directory / "data", tmp_path / "saved")
    node.start()
    own_set.primary()
    return tmp_path / "saved"


def restore(own: ReplicaSet, saved: Path) -> None:
    (node,) = own.nodes
    node.kill()
    shutil.rmtree(node.directory / "data")
    shutil.copytree(saved, node.directory / "data")
    node.start()
    own.primary()


def wait_reset(client: ChangeSourceClient) -> None:
    client.wait_for(lambda replica: replica.reset_required, "reset-required", 60)
    assert "another state of it was restored" in str(client.replica.reset_required)


def wait_empty_transaction(own: ReplicaSet, client: ChangeSourceClient) -> None:
    """Write elsewhere until a heartbeat arrives: it needs an operation of a later second."""
    watermark = client.replica.watermark
    with own.client() as mongo:

        def arrived() -> bool:
            mongo.another.unwatched.insert_one({})
            return client.replica.watermark > watermark

        wait_until(arrived, "an empty transaction", 30)


@pytest.mark.parametrize("scope", ["collection", "database"])
@pytest.mark.parametrize("written", [True, False], ids=["written_to", "idle"])
def test_restore_noticed_only_by_readers_sends_reset(
    scope: str, written: bool, own_set: ReplicaSet, saved: Path, tmp_path: Path, follow: Follow
) -> None:
    """A virtual machine's snapshot is restored. The streams were at a time without an event, which every state has."""
    settings = {"feed": {"heartbeat": 1, "scope": scope}}
    with ZmsdProcess(tmp_path / "zmsd", own_set.uri("app"), SCHEMA, MAPPINGS, settings=settings) as zmsd:
        zmsd.start()
        client = follow(zmsd)
        write(own_set, "lost")
        client.wait_rows("note", 2)
        for _ in range(2):
            wait_empty_transaction(own_set, client)
        restore(own_set, saved)
        if written:
            write(own_set, "new")
        wait_reset(client)
        fresh = follow(zmsd)
        assert set(fresh.rows("note")) == {("old",), ("new",)} if written else {("old",)}


def test_idle_restored_database_is_noticed_at_start(
    own_set: ReplicaSet, saved: Path, tmp_path: Path, follow: Follow
) -> None:
    """zmsd notices the restore when it starts, whenever a client connects."""
    with ZmsdProcess(tmp_path / "zmsd", own_set.uri("app"), SCHEMA, MAPPINGS) as zmsd:
        zmsd.start()
        client = follow(zmsd)
        write(own_set, "lost")
        client.wait_rows("note", 2)
        client.close()
        zmsd.stop()
        restore(own_set, saved)
        zmsd.start()
        zmsd.wait_log("starting from now: .* another state of it was restored")
        write(own_set, "new")
        wait_reset(follow(zmsd, replica=client.replica, wait=False))


def test_restore_to_before_an_initial_sync_sends_reset(
    own_set: ReplicaSet, saved: Path, tmp_path: Path, follow: Follow
) -> None:
    write(own_set, "lost")
    with ZmsdProcess(tmp_path / "zmsd", own_set.uri("app"), SCHEMA, MAPPINGS) as zmsd:
        zmsd.start()
        client = follow(zmsd)
        client.wait_rows("note", 2)
        client.close()
        zmsd.stop()
        restore(own_set, saved)
        write(own_set, "new")
        zmsd.start()
        wait_reset(follow(zmsd, replica=client.replica, wait=False))
