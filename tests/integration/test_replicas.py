"""Several replicas of one shard: a rolling deployment, and a replica that was restored from a backup."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
from pathlib import Path

import pytest

from tests.faults.tally import pick
from tests.integration.chat import MAPPINGS, SCHEMA
from tests.integration.test_reload import add_column, reload
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess, run_zmsd
from tests.support.nats import NatsServer
from tests.support.types import Db, Follow, Serve
from zmsd.commands.strict_replica import Replica
from zmsd.position import parse, watermark


@pytest.fixture(params=["sqlite", "nats-kv"])
def zmsd(request: pytest.FixtureRequest, tmp_path: Path, serve: Serve, stack: contextlib.ExitStack) -> ZmsdProcess:
    if request.param == "sqlite":
        return serve(SCHEMA, MAPPINGS)
    server = stack.enter_context(NatsServer(tmp_path / "nats"))
    return serve(SCHEMA, MAPPINGS, settings={"watermarks": {"storage": "nats-kv"}, "nats": {"servers": [server.url]}})


class Scene:
    """Replicas of shard zero/0 that connect and disconnect."""

    def __init__(self, zmsd: ZmsdProcess, database: Db, follow: Follow) -> None:
        self.zmsd = zmsd
        self.database = database
        self.has_age = False
        self._follow = follow
        self._users = itertools.count()
        self.add_user()

    def add_user(self) -> None:
        number = next(self._users)
        self.database.users.insert_one({"_id": f"u{number}", "name": f"name {number}", "age": number})

    def new_replica(self) -> Replica:
        """Receive an initial sync and a short part of the stream, as a new zero-cache."""
        client = self._follow(self.zmsd)
        self.add_user()
        self._check(client)
        client.close()
        return client.replica

    def resume(self, replica: Replica) -> ChangeSourceClient:
        """Connect, see the newest change and publication arrive, and write one more."""
        client = self._follow(self.zmsd, replica=replica, wait=False)
        self._check(client)
        self.add_user()
        self._check(client)
        return client

    def flip(self) -> None:
        """Publish another schema: column age is added or dropped."""
        reloads = len(self.zmsd.log("reloaded tables"))
        self.has_age = not self.has_age
        reload(self.zmsd, add_column if self.has_age else lambda *_: None)
        self.zmsd.wait_log("reloaded tables", count=reloads + 1)

    def _check(self, client: ChangeSourceClient) -> None:
        count = self.database.users.count_documents({})

        def is_current(replica: Replica) -> bool:
            shape = replica.tables.get("user")
            rows = replica.rows.get("user", {})
            return shape is not None and ("age" in shape.columns) == self.has_age and len(rows) == count

        client.wait_for(is_current, f"{count} users, with age: {self.has_age}")
        rows = client.rows("user")
        assert {row["name"] for row in rows.values()} == {f"name {number}" for number in range(count)}
        if self.has_age:
            assert {row["age"] for row in rows.values()} == set(range(count))


def test_replicas_reconnect_in_every_order_after_schema_changes(
    zmsd: ZmsdProcess, database: Db, follow: Follow
) -> None:
    """Two replicas, and a backup of the first one, with the same version and an older watermark. One or two schema
    changes lie between the connections."""
    scene = Scene(zmsd, database, follow)
    first, second = scene.new_replica(), scene.new_replica()
    backup = copy.deepcopy(first)
    assert str(first.version) < str(second.version)
    orders = [*itertools.permutations(("first", "second", "backup"))]
    # The short version takes each order once, and one or two schema changes alternately.
    for flips, order in pick([*zip((1, 2) * 3, orders, strict=True)], [*itertools.product((1, 2), orders)]):
        replicas = {"first": first, "second": second, "backup": backup}
        newer_backup = copy.deepcopy(first)
        for _ in range(flips):
            scene.flip()
            for name in order[: flips - 1]:  # some get each change, the others get one change that joins them
                scene.resume(replicas[name]).close()
        for name in order:
            scene.resume(replicas[name]).close()
        assert not any(replica.reset_required for replica in (first, second, backup))
        backup = newer_backup


def test_replicas_of_one_shard_stream_side_by_side(zmsd: ZmsdProcess, database: Db, follow: Follow) -> None:
    """As in a rolling deployment, with a restart of the daemon in between."""
    scene = Scene(zmsd, database, follow)
    replicas = [scene.new_replica(), scene.new_replica()]
    replicas.append(copy.deepcopy(replicas[0]))
    clients = [scene.resume(replica) for replica in replicas]
    zmsd.wait_log("several replicas of one shard are connected.*ZERO_APP_ID")
    versions = {str(replica.version) for replica in replicas}
    status = json.loads(zmsd.get("/status.json")[1])
    assert {one["replica"] for one in status["sessions"]} == versions
    assert 'zmsd_replicas{app="zero",shard="0"} 2' in zmsd.get("/metrics")[1]
    for round in range(4):
        scene.flip()
        if round == 1:
            zmsd.stop()
            zmsd.start()
        for client in clients:
            scene._check(client)
            scene.add_user()
        for client in clients[round % 2 :]:
            client.hang_up()
    for client in clients:
        scene._check(client)
        client.check()


def test_older_replica_of_an_unknown_version_is_reset(zmsd: ZmsdProcess, database: Db, follow: Follow) -> None:
    """The replica's publication is unknown, and a wrong guess would end zero-cache."""
    scene = Scene(zmsd, database, follow)
    forgotten = scene.new_replica()
    scene.new_replica()
    assert forgotten.version is not None
    forgotten.version = watermark(parse(forgotten.version)[0] - 1)
    client = follow(zmsd, replica=forgotten, wait=False)
    client.wait_for(lambda replica: replica.reset_required, "it is reset")
    assert "nothing is known of this replica" in str(forgotten.reset_required)


def test_observer_leaves_no_record(zmsd: ZmsdProcess, database: Db, follow: Follow) -> None:
    scene = Scene(zmsd, database, follow)
    observer = follow(zmsd, app="looking", query={"observer": "true"})
    scene._check(observer)
    again = follow(zmsd, app="looking", query={"observer": "true"}, replica=copy.deepcopy(observer.replica), wait=False)
    scene.add_user()
    scene._check(again)
    scene._check(observer)
    zmsd.stop()
    shown = run_zmsd("store", "show", "--config", str(zmsd.config_file), cwd=zmsd.config_file.parent)
    assert "looking" not in shown.stdout
