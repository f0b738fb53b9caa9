"""zero-cache on several nodes: a replication-manager with a Litestream backup, and view-syncers that restore it.

Litestream is the released 0.3.13, of which zero-cache 1.9 wants a fork. It writes and restores the same backups, but
does not report their watermarks, so zero-cache never purges its change log: the test does that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Zero, wait_same
from tests.support.daemon import ZmsdProcess
from tests.support.node import ROOT, Workspace
from tests.support.postgres import Postgres
from tests.support.scripts import NodeClient
from tests.support.types import Db, Serve
from tests.support.wait import wait_until
from tests.support.writer import mappings_of, schema_of
from tests.support.zero import ZeroCache

# Six starts of zero-cache take a minute of both processors.
pytestmark = pytest.mark.skipif(os.environ.get("ZMSD_TEST_LONG") != "1", reason="ZMSD_TEST_LONG=1 runs it")

SCHEMA, MAPPINGS = schema_of(["note"]), mappings_of(["note"])
LITESTREAM = Path(sys.executable).with_name("litestream")
MANAGER, SYNCER = (ROOT / "etc" / f"zero-{role}.env" for role in ("replication-manager", "view-syncer"))


class Nodes:
    """The nodes of one zero-cache, each with its file of etc/ and this machine's values."""

    def __init__(self, workspace: Workspace, directory: Path, zmsd: ZmsdProcess, postgres: Postgres, app: Zero) -> None:
        self._workspace, self._directory, self._zmsd, self._app = workspace, directory, zmsd, app
        self._postgres, self._database = postgres, postgres.create(f"nodes_{secrets.token_hex(4)}")
        self.backup = directory / "backup"
        self.written = 0

    def manager(self, name: str) -> ZeroCache:
        node = self._node(name, MANAGER)
        node.environment |= {
            "ZERO_LITESTREAM_BACKUP_URL": f"file://{self.backup}",
            "ZERO_LITESTREAM_INCREMENTAL_BACKUP_INTERVAL_MINUTES": "0.01",
            # It takes over from an older manager at once, not after 15 s.
            "ZERO_CHANGE_STREAMER_STARTUP_DELAY_MS": "1",
            "ZERO_CHANGE_STREAMER_ADDRESS": f"127.0.0.1:{node.port + 1}",
        }
        return node

    def syncer(self, name: str) -> ZeroCache:
        node = self._node(name, SYNCER)
        # It finds the newest manager by the Postgres, as it would by a load balancer's address.
        del node.environment["ZERO_CHANGE_STREAMER_URI"]
        node.environment["ZERO_CHANGE_STREAMER_MODE"] = "discover"
        return node

    def write(self, database: Db, *clients: NodeClient) -> None:
        """Write a row, and wait until every client shows it."""
        self.written += 1
        database.note.insert_one({"_id": f"new{self.written}", "n": self.written})
        for client in clients:
            wait_same(client, database, SCHEMA, MAPPINGS)

    def purge_change_log(self) -> None:
        """Remove all but the newest transaction, as zero-cache does with what is backed up."""
        newest = '(SELECT "lastWatermark" FROM "zero_0/cdc"."replicationState")'
        self._postgres.query(self._database, f'DELETE FROM "zero_0/cdc"."changeLog" WHERE watermark < {newest}')

    def streams(self) -> int:
        """How often a manager has connected to the stream of changes."""
        return len(self._zmsd.log("session begins.*last_watermark=c"))

    def _node(self, name: str, file: Path) -> ZeroCache:
        url = f"ws://127.0.0.1:{self._zmsd.port}/changes/v0/stream"
        directory = self._directory / name
        query = self._app.api.query_url
        node = ZeroCache(self._workspace, directory, url, self._database, query_url=query, restart=True, file=file)
        config = "node_modules/@rocicorp/zero/out/zero-cache/src/services/litestream/config.yml"
        assert node.environment["ZERO_LITESTREAM_CONFIG_PATH"] == f"/opt/zero-cache/{config}"
        node.environment |= {
            "ZERO_TASK_ID": name,
            "ZERO_LITESTREAM_EXECUTABLE": str(LITESTREAM),
            "ZERO_LITESTREAM_CONFIG_PATH": config,
        }
        self._app.stack.callback(node.kill)
        return node


@pytest.fixture
def zmsd(database: Db, serve: Serve) -> ZmsdProcess:
    database.note.insert_many([{"_id": f"{number:03}", "n": number, "text": "x"} for number in range(50)])
    return serve(SCHEMA, MAPPINGS)


@pytest.fixture
def nodes(
    zmsd: ZmsdProcess, workspace: Workspace, postgres: Postgres, tmp_path: Path, stack: contextlib.ExitStack
) -> Nodes:
    return Nodes(workspace, tmp_path / "nodes", zmsd, postgres, Zero(workspace, tmp_path, SCHEMA, stack))


def start(*nodes: ZeroCache) -> None:
    for node in nodes:
        node.start(wait=False)
    for node in nodes:
        node.wait_ready()


def test_killed_and_replaced_nodes_lose_nothing(database: Db, zmsd: ZmsdProcess, nodes: Nodes) -> None:
    app = nodes._app
    old, one, two = nodes.manager("old"), nodes.syncer("one"), nodes.syncer("two")
    start(old, one, two)
    clients = [app.client(cache=node) for node in (one, two)]
    nodes.write(database, *clients)

    # The second view-syncer stays, and goes on when the manager is back. The first one has lost its replica as well.
    old.kill()
    one.kill()
    for file in one.replica.parent.glob(one.replica.name + "*"):
        file.unlink()
    nodes.write(database)
    start(old, one)
    nodes.write(database, *clients)

    # A new manager beside the old one, from the backup.
    streams = nodes.streams()
    new = nodes.manager("new")
    new.start(wait=False)
    nodes.write(database, *clients)
    new.wait_ready()
    wait_until(lambda: nodes.streams() > streams, "the new manager has taken over", 60)
    nodes.write(database, *clients)
    assert old.wait_exit(60) == 14, "the old one ends when it is replaced"
    nodes.write(database, *clients)

    # One initial sync for all of them, and one replica in zmsd's store.
    assert len(zmsd.log("initial sync finished")) == 1
    assert not zmsd.log("reset required")


def test_backup_older_than_the_change_log_starts_a_new_replica(database: Db, zmsd: ZmsdProcess, nodes: Nodes) -> None:
    app = nodes._app
    old, syncer = nodes.manager("old"), nodes.syncer("syncer")
    start(old, syncer)
    client = app.client(cache=syncer)
    nodes.write(database, client)
    saved = nodes.backup.with_name("saved")
    old.kill()
    shutil.copytree(nodes.backup, saved)
    start(old)
    nodes.write(database, client)
    nodes.write(database, client)
    old.kill()
    shutil.rmtree(nodes.backup)
    saved.rename(nodes.backup)
    nodes.purge_change_log()
    nodes.write(database)
    new = nodes.manager("new")
    start(new)
    assert "earlier than minWatermark" in new.log()
    nodes.write(database, client)
    assert len(zmsd.log("initial sync finished")) == 2
    assert not zmsd.log("reset required")
