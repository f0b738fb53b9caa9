"""The members that zmsd reads: streams, look-ups and scans by the URI's read preference, oplog and identity on the
primary."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo.errors import PyMongoError

from tests.integration.chat import named, table
from tests.integration.test_check import Checker, one
from tests.support.daemon import ZmsdProcess, run_zmsd
from tests.support.mongod import ReplicaSet
from tests.support.types import Follow
from tests.support.wait import wait_until
from zmsd.demo.mongod import Mongod

SCHEMA = named(a=table(id="string", n="number"))
MAPPINGS = {"a": {"collection": "a", "fields": {"id": "_id"}}}
OFF = {"feed": {"images": "off"}}
SECONDARY = "&readPreference=secondary"


@pytest.fixture
def three(tmp_path: Path) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path / "mongod", nodes=3) as own:
        own.wait_all_healthy()
        for node in own.nodes:
            wait_until(lambda node=node: reads_majority(node), "the node knows what a majority has", 60)
        yield own


def reads_majority(node: Mongod) -> bool:
    """Return whether a node can open a change stream: for some seconds after its first synchronisation it cannot."""
    with node.client(timeoutMS=1000) as client, contextlib.suppress(PyMongoError), client.chat.watch():
        return True
    return False


def profile(node: Mongod, level: int) -> None:
    with node.client() as client:
        client.chat.command("profile", level)


def has_stream(node: Mongod) -> bool:
    """Return whether change streams are open on a node; only zmsd opens any."""
    with node.client() as client:
        operations = client.admin.aggregate([{"$currentOp": {"allUsers": True, "idleCursors": True}}])
        return any("$changeStream" in repr(one) and "$currentOp" not in repr(one) for one in operations)


def profiled(node: Mongod) -> set[str]:
    """Return the kinds of reads of collection a that zmsd made on a node since its profiling began."""
    found: set[str] = set()
    with node.client() as client:
        for entry in client.chat["system.profile"].find({"appName": "zmsd"}):
            command = entry.get("originatingCommand") or entry["command"]
            if command.get("find") == "a":
                found.add("look-up" if "filter" in command else "scan")
    return found


def test_secondary_serves_streams_lookups_and_initial_sync(
    three: ReplicaSet, tmp_path: Path, follow: Follow, stack: contextlib.ExitStack
) -> None:
    client = stack.enter_context(three.client())
    client.chat.a.insert_many({"_id": f"x{number}", "n": number} for number in range(3000))
    for node in three.nodes:
        profile(node, 2)
    zmsd = stack.enter_context(
        ZmsdProcess(tmp_path / "zmsd", three.uri("chat") + SECONDARY, SCHEMA, MAPPINGS, settings=OFF)
    ).start()
    peer = follow(zmsd)
    client.chat.a.update_one({"_id": "x1"}, {"$set": {"n": -1}})
    wait_until(lambda: peer.rows("a")[("x1",)]["n"] == -1, "the change", 30)
    assert len(peer.rows("a")) == 3000
    primary = three.primary()
    secondaries = three.secondaries()
    assert profiled(primary) == set()
    assert set().union(*map(profiled, secondaries)) == {"scan", "look-up"}
    wait_until(lambda: any(map(has_stream, secondaries)), "a secondary has the stream", 10)
    assert not has_stream(primary)


def test_secondaries_that_stop_or_become_primary_lose_no_change(
    three: ReplicaSet, tmp_path: Path, follow: Follow, stack: contextlib.ExitStack
) -> None:
    client = stack.enter_context(three.client(retryWrites=True))
    client.chat.a.insert_one({"_id": "x", "n": 0})
    zmsd = stack.enter_context(ZmsdProcess(tmp_path / "zmsd", three.uri("chat") + SECONDARY, SCHEMA, MAPPINGS)).start()
    peer = follow(zmsd)
    number = 0
    for round_ in range(3):
        for _ in range(20):
            number += 1
            client.chat.a.insert_one({"_id": f"y{number}", "n": number})
        if round_ == 0:
            member = three.secondaries()[0]
            member.kill()
            member.start()
            three.wait_all_healthy(120)
        else:
            three.step_down()
    wait_until(lambda: len(peer.rows("a")) == number + 1, "all changes", 60)
    assert peer.replica.reset_required is None
    assert not peer.closings


def test_member_synced_again_causes_no_reset(tmp_path: Path, follow: Follow, stack: contextlib.ExitStack) -> None:
    """The secondary's oplog begins after the client's position; the primary's does not."""
    two = stack.enter_context(ReplicaSet(tmp_path / "mongod", nodes=2))
    client = stack.enter_context(two.client())
    client.chat.a.insert_one({"_id": "x", "n": 1})
    uri = two.uri("chat") + "&readPreference=secondaryPreferred"
    zmsd = stack.enter_context(ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS)).start()
    first = follow(zmsd)
    first.close()
    zmsd.stop()
    client.chat.a.insert_one({"_id": "while away", "n": 2})
    member = two.secondaries()[0]
    member.stop()
    shutil.rmtree(member.directory)
    member.directory.mkdir()
    member.start()
    two.wait_all_healthy(120)
    zmsd.start()
    second = follow(zmsd, replica=first.replica, wait=False)
    wait_until(lambda: second.replica.reset_required or ("while away",) in second.rows("a"), "the change", 60)
    assert second.replica.reset_required is None


def test_lagging_secondary_does_not_serve_older_documents(
    three: ReplicaSet, tmp_path: Path, follow: Follow, stack: contextlib.ExitStack
) -> None:
    """An initial sync and a stream wait until the secondary has what the primary had."""
    client = stack.enter_context(three.client())
    client.chat.a.insert_one({"_id": "x", "n": 0})
    uri = three.uri("chat") + SECONDARY
    zmsd = stack.enter_context(ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS)).start()
    lagging = three.secondaries()[0]
    point = {"configureFailPoint": "rsSyncApplyStop"}
    with lagging.client() as direct:
        direct.admin.command({**point, "mode": "alwaysOn"})
        client.chat.a.update_one({"_id": "x"}, {"$set": {"n": 1}})
        peers = [follow(zmsd, shard=shard, wait=False) for shard in range(4)]
        client.chat.a.update_one({"_id": "x"}, {"$set": {"n": 2}})
        direct.admin.command({**point, "mode": "off"})
    for peer in peers:
        peer.wait_initial(60)
        wait_until(lambda peer=peer: peer.rows("a")[("x",)]["n"] == 2, "the newest document", 60)


def test_read_preference_that_no_member_satisfies_is_reported(tmp_path: Path) -> None:
    with ReplicaSet(tmp_path / "mongod") as own, own.client() as client:
        client.chat.a.insert_one({"_id": "x"})
        uri = own.uri("chat") + SECONDARY
        line = one(Checker(tmp_path, uri).lines(1, SCHEMA, MAPPINGS), "error: mongodb: ")
        assert "readPreference" in line
        with ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS) as zmsd:
            zmsd.start(ready=False)
            wait_until(lambda: "readPreference" in zmsd.get("/readyz")[1], "the reason", 30)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("readConcernLevel=linearizable", "readConcernLevel"),
        ("readConcernLevel=snapshot", "readConcernLevel"),
        ("directConnection=true&readPreference=secondary", "readPreference"),
        ("loadBalanced=true", "loadBalanced"),
    ],
)
def test_read_option_that_cannot_be_honoured_is_refused(options: str, part: str, tmp_path: Path) -> None:
    uri = f"mongodb://127.0.0.1:1/chat?{options}"
    for command in ("check", "run"):
        with ZmsdProcess(tmp_path / command, uri, SCHEMA, MAPPINGS) as zmsd:
            done = run_zmsd(command, "--config", str(zmsd.config_file), cwd=zmsd.directory)
        assert done.returncode == 78, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert "mongodb.uri" in line
        assert part in line


def test_weaker_read_concern_of_the_uri_is_ignored(
    three: ReplicaSet, tmp_path: Path, follow: Follow, stack: contextlib.ExitStack
) -> None:
    client = stack.enter_context(three.client())
    client.chat.a.insert_one({"_id": "x", "n": 0})
    uri = three.uri("chat") + "&readConcernLevel=available&readPreference=nearest&maxStalenessSeconds=90"
    assert not [line for line in Checker(tmp_path, uri).lines(0, SCHEMA, MAPPINGS) if line.startswith("error")]
    zmsd = stack.enter_context(ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS)).start()
    assert ("x",) in follow(zmsd).rows("a")
