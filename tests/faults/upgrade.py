"""MongoDB is upgraded while zmsd serves and writers write: ``make compat-mongodb``; no part of ``make test``.

``ZMSD_TEST_MONGODS`` names the binaries, of different versions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from tests.faults.load import COLLECTIONS, MAPPINGS, SCHEMA, caught_up, empty, load, received, written
from tests.faults.tally import Tally
from tests.support.mongod import ReplicaSet, version_of
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer

SCOPES = pytest.mark.parametrize("scope", ["collection", "database"])


@cache
def binaries() -> dict[str, Path]:
    """Return major version -> binary, the newest of each."""
    named = [Path(name) for name in os.environ.get("ZMSD_TEST_MONGODS", "").split()]
    return {"{}.{}".format(*version_of(path)): path for path in sorted(named, key=version_of)}


def binary(version: str) -> Path:
    """Return the binary of a major version; the test is skipped without it."""
    if version not in binaries():
        pytest.skip(f"ZMSD_TEST_MONGODS names no mongod {version}")
    return binaries()[version]


def set_compatibility(replicas: ReplicaSet, version: str) -> None:
    """Set the featureCompatibilityVersion, the last step of an upgrade."""
    confirmed: dict[str, Any] = {"confirm": True} if version >= "7.0" else {}

    def done() -> bool:
        with contextlib.suppress(AutoReconnect), replicas.client() as client:
            client.admin.command("setFeatureCompatibilityVersion", version, **confirmed)
            return True
        return False

    wait_until(done, f"featureCompatibilityVersion {version}", 60)


def have_images(database: Db) -> bool:
    options = [database[name].options() for name in COLLECTIONS]
    return all(one.get("changeStreamPreAndPostImages", {}).get("enabled") for one in options)


@SCOPES
@pytest.mark.parametrize(("old", "new"), [("5.0", "6.0"), ("6.0", "7.0")])
def test_rolling_upgrade_under_load_loses_nothing(
    old: str,
    new: str,
    scope: str,
    tmp_path: Path,
    serve: Serve,
    follow: Follow,
    tally: Tally,
    stack: contextlib.ExitStack,
) -> None:
    """Before images are on, nothing is written during a restart, which ends the history of documents."""
    binaries = binary(old), binary(new)
    replicas = stack.enter_context(ReplicaSet(tmp_path / "three", 3, binary=binaries[0]))
    database = empty(replicas, stack, "rolling")
    zmsd = serve(SCHEMA, MAPPINGS, uri=replicas.uri(database.name), settings={"feed": {"scope": scope}})
    clients = [follow(zmsd, shard=0), follow(zmsd, shard=1)]

    def goes_on(writer: Writer) -> None:
        tally.survived += 1
        written(writer, 100, 180)
        for client in clients:
            received(client, timeout=180)

    @contextlib.contextmanager
    def restarting(writer: Writer) -> Iterator[None]:
        with writer.held() if old == "5.0" else contextlib.nullcontext():
            for client in clients if old == "5.0" else ():
                caught_up(client, writer)
            yield
        goes_on(writer)

    with load(database, *clients, tally=tally, exact=False, timeout=240) as writer:
        written(writer, 100)
        for node in replicas.secondaries():
            with restarting(writer):
                replicas.replace_binary(node, binaries[1])
        last = replicas.primary()
        with restarting(writer):
            replicas.step_down()
            wait_until(lambda: replicas.primary() is not last, "another primary", 60)
        with restarting(writer):
            replicas.replace_binary(last, binaries[1])
        set_compatibility(replicas, new)
        wait_until(lambda: have_images(database), "images are on", 120)
        goes_on(writer)
    for client in clients:
        assert not client.closings, "it stayed connected"
        assert not client.refusals
    tally.note(f"scope {scope}; {writer.outages} writes failed at first")


@SCOPES
def test_upgrade_of_one_node_from_5_to_7_loses_nothing(
    scope: str,
    tmp_path: Path,
    serve: Serve,
    follow: Follow,
    tally: Tally,
    stack: contextlib.ExitStack,
) -> None:
    """One node. Before images are on, nothing is written during a restart, which ends the history of documents."""
    replicas = stack.enter_context(ReplicaSet(tmp_path / "one", binary=binary("5.0")))
    database = empty(replicas, stack, "one")
    zmsd = serve(SCHEMA, MAPPINGS, uri=replicas.uri(database.name), settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    (node,) = replicas.nodes
    with load(database, client, tally=tally, exact=False, timeout=240) as writer:
        written(writer, 100)
        with writer.held():
            caught_up(client, writer)
            replicas.replace_binary(node, binary("6.0"))
        tally.survived += 1
        written(writer, 100, 120)
        set_compatibility(replicas, "6.0")
        tally.survived += 1
        wait_until(lambda: have_images(database), "zmsd has switched images on", 120)
        received(client, timeout=120)
        replicas.replace_binary(node, binary("7.0"))
        tally.survived += 1
        written(writer, 100, 180)
        received(client, timeout=180)
        set_compatibility(replicas, "7.0")
        tally.survived += 1
        written(writer, 100, 180)
        received(client, timeout=180)
    assert not client.closings, "it stayed connected"
    assert not client.refusals
    tally.note(f"scope {scope}; {writer.outages} writes failed at first")
