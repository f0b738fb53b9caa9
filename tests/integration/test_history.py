"""The database under an address is not the one that was read before: that is said, never glossed over."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from tests.integration.chat import named, table
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from zmsd.tools.mongod import initiate

SCHEMA = named(note=table(id="string", text="string"))
MAPPINGS = {"note": {"collection": "notes", "fields": {"id": "_id"}}}
Follow = Callable[..., ChangeSourceClient]


@pytest.fixture
def own_set(tmp_path: Path) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path / "set") as own:
        yield own


def write(own: ReplicaSet, *names: str) -> None:
    with own.client() as client:
        client.app.notes.insert_many([{"_id": name, "text": name} for name in names])


@pytest.mark.parametrize("running", [True, False], ids=["zmsd_runs", "zmsd_was_down"])
@pytest.mark.parametrize("kind", ["restored", "another"])
def test_an_older_state_or_another_database_is_a_reset(
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


def test_another_database_of_the_same_replica_set_is_a_reset(
    database: Database[dict[str, Any]], replica_set: ReplicaSet, serve: Callable[..., ZmsdProcess], follow: Follow
) -> None:
    """mongodb.database was changed, and the store was left where it is."""
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
