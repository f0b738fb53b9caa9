"""zmsd, the real zero-cache and real Zero clients. ZMSD_TEST_SKIP_E2E=1 leaves these tests out."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.tally import LONG
from tests.support.compare import expected_rows
from tests.support.daemon import ZmsdProcess
from tests.support.node import Workspace, workspace
from tests.support.postgres import Postgres
from tests.support.scripts import Api, NodeClient
from tests.support.types import Db
from tests.support.zero import ZeroCache


@pytest.fixture(scope="session", name="workspace")
def _workspace() -> Workspace:
    if os.environ.get("ZMSD_TEST_SKIP_E2E") == "1":
        pytest.skip("ZMSD_TEST_SKIP_E2E=1")
    return workspace()


@pytest.fixture(scope="session")
def postgres(workspace: Workspace) -> Iterator[Postgres]:
    """Return the Postgres for zero-cache's own databases, which the tests of a worker share."""
    with Postgres() as shared:
        yield shared


@pytest.fixture
def zero_cache(
    workspace: Workspace, postgres: Postgres, tmp_path: Path, stack: contextlib.ExitStack
) -> Callable[..., ZeroCache]:
    """Return ``zero_cache(zmsd, …)``, which starts a zero-cache and waits for its initial sync.

    Its arguments are those of ZeroCache. With ``start=False`` the test starts it. Its workers run in one process,
    except in ``make faults`` and ``make compat``; with ``one_process=False`` in their own processes, as in production.
    """
    numbers = itertools.count()

    def zero_cache(process: ZmsdProcess, *, start: bool = True, **options: Any) -> ZeroCache:
        source = f"ws://127.0.0.1:{process.port}/changes/v0/stream"
        database = postgres.create(f"zero_{secrets.token_hex(4)}")
        options.setdefault("one_process", workspace.pinned and not LONG)
        cache = ZeroCache(workspace, tmp_path / f"zero{next(numbers)}", source, database, **options)
        stack.callback(cache.kill)
        return cache.start() if start else cache

    return zero_cache


class Zero:
    """Run zero-cache for the tables of a schema document, with a query endpoint that serves these tables."""

    def __init__(self, workspace: Workspace, directory: Path, schema: Any, stack: contextlib.ExitStack) -> None:
        self._workspace, self._directory, self.stack = workspace, directory, stack
        self._numbers = itertools.count()
        self._served = directory / "served.json"
        self.publish(schema)
        self.api = stack.enter_context(Api(workspace, env={"SCHEMA": str(self._served)}))
        self.cache: ZeroCache

    def publish(self, schema: Any) -> None:
        """Set the tables that the query endpoint serves from now on."""
        self._served.write_text(json.dumps(schema))
        self.schema = schema

    def client(
        self, schema: Any = None, *, legacy: bool = False, cache: ZeroCache | None = None, **options: Any
    ) -> NodeClient:
        """Return a client of this schema, by default the endpoint's, with one view per table, named like the table.

        :param cache: the zero-cache to connect to, where there are several
        """
        schema = schema or self.schema
        file = self._directory / f"client{next(self._numbers)}.json"
        file.write_text(json.dumps(schema))
        env = {"SCHEMA": str(file), "LEGACY_QUERIES": str(int(legacy)), "USER_ID": "anon", **options.pop("env", {})}
        client = self.stack.enter_context(NodeClient(self._workspace, cache or self.cache, env=env, **options))
        for name in schema:
            client.materialize(name, None if legacy else "all", {"table": name})
        return client


@pytest.fixture
def zero(
    workspace: Workspace, zero_cache: Callable[..., ZeroCache], tmp_path: Path, stack: contextlib.ExitStack
) -> Callable[..., Zero]:
    """Return ``zero(zmsd, schema, …)``, whose arguments are those of ``zero_cache``."""
    numbers = itertools.count()

    def zero(process: ZmsdProcess, schema: Any, **options: Any) -> Zero:
        directory = tmp_path / f"app{next(numbers)}"
        directory.mkdir()
        app = Zero(workspace, directory, schema, stack)
        app.cache = zero_cache(process, query_url=app.api.query_url, **options)
        return app

    return zero


def wait_same(client: NodeClient, database: Db, schema: Any, mappings: Any, timeout: float = 120) -> None:
    """Wait until every view of the client shows the content of MongoDB. Nothing may write meanwhile."""
    for name, spec in schema.items():
        mapping = (mappings or {}).get(name) or {"collection": spec.get("tableName", name)}
        rows = expected_rows(database, spec, mapping)
        client.wait_rows(name, [rows[key] for key in sorted(rows)], timeout)
