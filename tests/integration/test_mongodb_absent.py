"""A MongoDB that is down or refuses zmsd: zmsd stays up, reports the reason once, and continues when it can."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ADMIN, ReplicaSet
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from zmsd.demo.mongod import Mongod


def start(directory: Path, uri: str, **settings: Any) -> ZmsdProcess:
    return ZmsdProcess(directory, uri, SCHEMA, MAPPINGS, settings=settings).start(ready=False)


def not_ready(zmsd: ZmsdProcess, reason: str) -> str:
    """Wait until /readyz answers 503 with this reason, and return the answer."""

    def refuses() -> str:
        status, body = zmsd.get("/readyz")
        return body if status == 503 and reason in body.lower() else ""

    body = wait_until(refuses, f"/readyz says {reason!r}", 30)
    assert len(body.splitlines()) == 1, body
    assert zmsd.get("/healthz")[0] == 200
    return body


def test_mongodb_unreachable_at_start_is_waited_for(tmp_path: Path, follow: Follow) -> None:
    with ReplicaSet(tmp_path / "mongod") as replica_set:
        node = replica_set.nodes[0]
        with node.client() as client:
            client["absent"].users.insert_one({"_id": "ann", "name": "Ann"})
        node.stop()
        with start(tmp_path / "zmsd", replica_set.uri("absent")) as zmsd:
            not_ready(zmsd, node.address)
            waiting = follow(zmsd, wait=False)  # the client is held, not refused: a refusal would end zero-cache
            said = len(zmsd.log("WARNING|ERROR"))
            assert said == 1, zmsd.stderr()
            node.start()
            wait_until(zmsd.ready, "zmsd goes on by itself", 30)
            waiting.wait_initial()
            assert waiting.rows("user").keys() == {("ann",)}


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_stop_does_not_wait_for_a_mongodb_that_does_not_answer(tmp_path: Path, scope: str) -> None:
    with ReplicaSet(tmp_path / "mongod") as replica_set:
        uri, settings = replica_set.uri("absent"), {"feed": {"scope": scope}}
        with ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS, settings=settings).start() as zmsd:
            replica_set.nodes[0].signal(signal.SIGSTOP)
            try:
                zmsd.signal(signal.SIGTERM)
                assert zmsd.wait_exit() == 0
            finally:
                replica_set.nodes[0].signal(signal.SIGCONT)
            assert zmsd.log("not waiting for MongoDB's answer")
            assert "Traceback" not in zmsd.stderr()


def test_standalone_mongod_makes_zmsd_unready_with_reason(tmp_path: Path) -> None:
    mongod = Mongod(tmp_path / "mongod", standalone=True)
    try:
        mongod.start()
        with start(tmp_path / "zmsd", f"mongodb://{mongod.address}/db") as zmsd:
            not_ready(zmsd, "replica set")
            (line,) = zmsd.wait_log("ERROR")
            assert "replica set" in line
    finally:
        mongod.kill()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with ReplicaSet(tmp_path_factory.mktemp("secured"), auth=True) as replica_set:
        yield replica_set


def test_wrong_password_is_reported_until_it_is_corrected(secured: ReplicaSet, tmp_path: Path) -> None:
    with secured.client() as client:
        client.admin.command("createUser", "zmsd", pwd="old", roles=[{"role": "read", "db": "chat"}])
        with start(tmp_path, secured.uri("chat", ("zmsd", "new"))) as zmsd:
            not_ready(zmsd, "auth")
            (line,) = zmsd.wait_log("ERROR")
            assert "authentication" in line.lower()
            assert "check user, password and authSource (mongodb.uri)" in line
            assert "Traceback" not in zmsd.stderr()
            client.admin.command("updateUser", "zmsd", pwd="new")
            wait_until(zmsd.ready, "zmsd goes on by itself", 60)


def test_user_without_privileges_makes_zmsd_unready_with_reason(secured: ReplicaSet, tmp_path: Path) -> None:
    with secured.client() as client:
        client.admin.command("createUser", "nobody", pwd="p", roles=[])
    with start(tmp_path, secured.uri("chat", ("nobody", "p"))) as zmsd:
        not_ready(zmsd, "not authorized")


def test_read_only_user_is_served_without_images(secured: ReplicaSet, tmp_path: Path, follow: Follow) -> None:
    """The role read has no collMod: a warning states the effect, and tables that need no images are served."""
    with secured.client() as client:
        client.admin.command("createUser", "reader", pwd="p", roles=[{"role": "read", "db": "plain"}])
        client["plain"].users.insert_one({"_id": "ann", "name": "Ann"})
        uri = secured.uri("plain", ("reader", "p"))
        only = {"user": SCHEMA["user"]}
        with ZmsdProcess(tmp_path, uri, only, {"user": MAPPINGS["user"]}).start() as zmsd:
            assert zmsd.log("images")
            follower = follow(zmsd)
            client["plain"].users.insert_one({"_id": "bob", "name": "Bob"})
            follower.wait_rows("user", 2)
            follower.close()


def test_administrator_is_served_with_images(secured: ReplicaSet, tmp_path: Path, follow: Follow) -> None:
    with ZmsdProcess(tmp_path, secured.uri("full", ADMIN), SCHEMA, MAPPINGS).start() as zmsd:
        follow(zmsd).close()
        assert ADMIN[1] not in zmsd.stderr()


def test_failed_stream_of_an_idle_collection_is_reopened(
    replica_set: ReplicaSet, database: Db, serve: Serve, follow: Follow
) -> None:
    """The other streams continue, so no event reveals that this stream has ended."""
    database.users.insert_one({"_id": "ann", "name": "Ann"})
    database.create_collection("rooms")
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": "collection"}})
    follow(zmsd)
    namespace = f"{database.name}.rooms"
    with replica_set.failing("getMore", "aggregate", errorCode=262, namespace=namespace):
        zmsd.wait_log("feed failed", timeout=60)
    wait_until(zmsd.ready, "it is ready again", 30)
    database.rooms.insert_one({"_id": "one"})
    follow(zmsd, shard=1).wait_rows("room", 1)
