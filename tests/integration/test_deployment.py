"""Abilities follow the deployment's behaviour, and are detected again when the deployment changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from pymongo.errors import PyMongoError

from tests.integration.chat import named, table
from tests.integration.test_check import Checker, one
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.types import Follow
from tests.support.wait import wait_until

SCHEMA = named(a=table(id="string", n="number"))
BY_ID = {"a": {"collection": "a", "fields": {"id": "_id"}}}
BY_CODE = {"a": {"collection": "a", "fields": {"id": "code"}}}
"""A key that a delete without a pre-image does not tell."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path / "mongod") as replica_set:
        yield replica_set


def set_version(own: ReplicaSet, version: str) -> None:
    """Set the featureCompatibilityVersion, as the last step of an upgrade or the first one of a downgrade does."""
    with own.client() as client:
        if version == "5.0":  # refused while a collection has images
            for name in client.chat.list_collection_names():
                client.chat.command({"collMod": name, "changeStreamPreAndPostImages": {"enabled": False}})
        client.admin.command("setFeatureCompatibilityVersion", version)


def has_images(own: ReplicaSet) -> bool:
    with own.client() as client:
        return bool(client.chat.a.options().get("changeStreamPreAndPostImages", {}).get("enabled"))


def reason(zmsd: ZmsdProcess) -> str:
    return zmsd.get("/readyz")[1]


def test_change_of_feature_compatibility_version_is_followed(
    own: ReplicaSet, tmp_path: Path, follow: Follow, stack: contextlib.ExitStack
) -> None:
    set_version(own, "5.0")
    client = stack.enter_context(own.client())
    client.chat.a.insert_one({"_id": "x", "n": 1})
    lines = Checker(tmp_path, own.uri("chat")).lines(0, SCHEMA, BY_ID)
    one(lines, "warning: version: MongoDB 6.* at its featureCompatibilityVersion.*setFeatureCompatibilityVersion")
    one(lines, "warning: collection a: MongoDB 6.* stores no pre- and post-images")

    with ZmsdProcess(tmp_path / "zmsd", own.uri("chat"), SCHEMA, BY_ID) as zmsd:
        zmsd.start()
        assert zmsd.log("WARNING.*featureCompatibilityVersion")
        peer = follow(zmsd)

        def arrives(n: int) -> None:
            client.chat.a.update_one({"_id": "x"}, {"$set": {"n": n}})
            wait_until(lambda: peer.rows("a")[("x",)]["n"] == n, f"n = {n}", 30)

        arrives(2)
        set_version(own, "6.0")
        wait_until(lambda: has_images(own), "images are switched on without a restart", 60)
        wait_until(zmsd.ready, "it is ready with images", 30)
        arrives(3)
        set_version(own, "5.0")
        own.nodes[0].stop()  # every stream is reopened
        own.nodes[0].start()
        own.primary()
        wait_until(zmsd.ready, "it is ready without images", 60)
        arrives(4)
        assert not zmsd.log("is not a valid option"), "a refused option is not what people have to read"
        assert not peer.closings
        assert peer.replica.reset_required is None


def test_table_that_needs_pre_images_waits_for_the_feature_compatibility_version(
    own: ReplicaSet, tmp_path: Path
) -> None:
    set_version(own, "5.0")
    with own.client() as client:
        client.chat.a.insert_one({"code": "x"})
    lines = Checker(tmp_path, own.uri("chat")).lines(1, SCHEMA, BY_CODE)
    one(lines, "error: collection a: .*featureCompatibilityVersion.*table a needs them: run db.adminCommand")
    with ZmsdProcess(tmp_path / "zmsd", own.uri("chat"), SCHEMA, BY_CODE) as zmsd:
        zmsd.start(ready=False)
        wait_until(lambda: "featureCompatibilityVersion" in reason(zmsd), "the reason", 30)
        assert "run db.adminCommand({setFeatureCompatibilityVersion" in reason(zmsd)
        set_version(own, "6.0")
        wait_until(zmsd.ready, "it goes on by itself", 60)


def test_required_images_name_the_feature_compatibility_version(own: ReplicaSet, tmp_path: Path) -> None:
    set_version(own, "5.0")
    with own.client() as client:
        client.chat.a.insert_one({"_id": "x"})
    required = {"feed": {"images": "required"}}
    one(
        Checker(tmp_path, own.uri("chat")).lines(1, SCHEMA, BY_ID, **required),
        "error: collection a: .*featureCompatibilityVersion",
    )
    with ZmsdProcess(tmp_path / "zmsd", own.uri("chat"), SCHEMA, BY_ID, settings=required) as zmsd:
        zmsd.start(ready=False)
        wait_until(lambda: "featureCompatibilityVersion" in reason(zmsd), "the reason", 30)


def test_index_build_at_start_delays_ready_with_reason(own: ReplicaSet, tmp_path: Path) -> None:
    """collMod is refused while an index is built; the operator need not act."""
    point = {"configureFailPoint": "hangAfterStartingIndexBuild"}
    with own.client() as client:
        client.chat.a.insert_one({"code": "x"})
        client.admin.command({**point, "mode": "alwaysOn"})

        def build() -> None:
            with contextlib.suppress(PyMongoError):
                client.chat.a.create_index("code")

        building = Thread(target=build)
        building.start()
        wait_until(lambda: bool(client.chat.command({"listIndexes": "a"})["cursor"]["firstBatch"][1:]), "it is built")
        try:
            with ZmsdProcess(tmp_path / "zmsd", own.uri("chat"), SCHEMA, BY_CODE) as zmsd:
                zmsd.start(ready=False)
                wait_until(lambda: "an index is being built on chat.a" in reason(zmsd), "the reason", 30)
                client.admin.command({**point, "mode": "off"})
                wait_until(zmsd.ready, "it goes on by itself", 30)
                assert not zmsd.log("ERROR")
        finally:
            client.admin.command({**point, "mode": "off"})
            building.join()


def test_direct_connection_to_a_secondary_is_reported(tmp_path: Path) -> None:
    with ReplicaSet(tmp_path / "mongod", nodes=2) as own, own.client() as client:
        client.chat.a.insert_one({"_id": "x"})
        uri = f"mongodb://{own.secondaries()[0].address}/chat?directConnection=true"
        line = one(Checker(tmp_path, uri).lines(1, SCHEMA, BY_ID), "error: mongodb: .*not the primary")
        assert "remove directConnection" in line
        with ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, BY_ID) as zmsd:
            zmsd.start(ready=False)
            wait_until(lambda: "remove directConnection" in reason(zmsd), "the reason", 30)
            assert len(reason(zmsd).splitlines()) == 1


def test_direct_connection_whose_member_steps_down_is_reported(tmp_path: Path) -> None:
    with ReplicaSet(tmp_path / "mongod", nodes=2) as own, own.client() as client:
        client.chat.a.insert_one({"_id": "x"})
        uri = f"mongodb://{own.primary().address}/chat?directConnection=true"
        with ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, BY_ID) as zmsd:
            zmsd.start()
            own.step_down()
            wait_until(lambda: "remove directConnection" in reason(zmsd), "the reason", 60)
