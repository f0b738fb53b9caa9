"""kill -9 during a write load: in the end, a Zero client and ``zmsd verify`` find the content of MongoDB."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import Zero, wait_same
from tests.e2e.test_verify import shell_of, verify
from tests.faults.tally import pick
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import Client, ReplicaSet
from tests.support.node import Workspace
from tests.support.types import Db, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer, mappings_of, schema_of
from tests.support.zero import ZeroCache

COLLECTIONS = ["alpha", "beta"]
WRITES = pick(60, 200)
SCHEMA, MAPPINGS = schema_of(COLLECTIONS), mappings_of(COLLECTIONS)


def written(writer: Writer, more: int) -> None:
    """Wait for ``more`` writes."""
    enough = len(writer.log) + more
    wait_until(lambda: len(writer.log) >= enough, f"{more} more writes", 180)


def assert_verified(process: ZmsdProcess, cache: ZeroCache, workspace: Workspace, directory: Path) -> None:
    """Compare every row of the replica with MongoDB."""
    text = verify(process, cache, shell_of(workspace, directory))
    assert len(re.findall(r"^\w+: ([\d,]+) rows, \1 equal, no difference", text, re.MULTILINE)) == len(COLLECTIONS), (
        text
    )


def test_kill_of_zmsd_and_zero_cache_loses_nothing(
    mongo: Client, database: Db, serve: Serve, zero: Callable[..., Zero], workspace: Workspace, tmp_path: Path
) -> None:
    with Writer(mongo, database.name, COLLECTIONS, pause=pick(0.05, 0.02)) as writer:
        writer.seed(100)
        process = serve(SCHEMA, MAPPINGS)
        # On a slow machine a new zero-cache may purge changes that it still needs, and then syncs again.
        app = zero(process, SCHEMA, restart=True, one_process=False)
        client = app.client()
        writer.start()
        written(writer, WRITES)
        for _ in range(pick(1, 10)):
            process.kill()
            written(writer, WRITES)
            process.start()
            written(writer, WRITES)
            app.cache.kill()
            written(writer, WRITES)
            app.cache.start()
            written(writer, WRITES)
        writer.stop()
    wait_same(client, database, SCHEMA, MAPPINGS)
    assert not process.log("reset required")
    assert_verified(process, app.cache, workspace, tmp_path)


def test_kill_of_the_primary_loses_nothing(
    serve: Serve, zero: Callable[..., Zero], workspace: Workspace, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    replicas = stack.enter_context(ReplicaSet(tmp_path / "set", 3))
    mongo = stack.enter_context(replicas.client())
    with Writer(mongo, "test", COLLECTIONS, pause=pick(0.05, 0.02)) as writer:
        writer.seed(100)
        process = serve(SCHEMA, MAPPINGS, uri=replicas.uri("test"))
        app = zero(process, SCHEMA)
        client = app.client()
        writer.start()
        for _ in range(pick(1, 5)):
            written(writer, WRITES)
            primary = replicas.primary()
            primary.kill()
            written(writer, WRITES)
            primary.start()
            replicas.wait_all_healthy()
        written(writer, WRITES // 2)
        writer.stop()
    wait_same(client, mongo["test"], SCHEMA, MAPPINGS)
    assert not process.log("reset required")
    assert_verified(process, app.cache, workspace, tmp_path)
