"""Fixtures of all tests: a real MongoDB, zmsd as a process on it, and clients of zmsd."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import Client, ReplicaSet, missing_library, version_of
from tests.support.types import Db, Follow, Serve
from zmsd.demo.mongod import find_binary

ROOT = Path(__file__).parent

# Some container images switch bytecode files off: each worker and each zmsd process would compile all modules.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell starts background processes with SIGINT ignored, and the tests' processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run. No deadline: the machine may be busy.
hypothesis.settings.register_profile("zmsd", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("zmsd")


# Collecting makes hundreds of thousands of objects and no garbage.
gc.disable()


def pytest_collection_finish() -> None:
    """Exempt what collecting has made from garbage collections: it stays until the end."""
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    """Undo the logging set-up of a command under test, which would hide log lines from the next test."""
    root, ours = logging.getLogger(), logging.getLogger("zmsd")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers, root.level, ours.level = before


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip all but the unit tests, with the reason, where mongod cannot be run; and what an old version cannot do."""
    if getattr(config.option, "loadgroup", False):
        _distribute(items)
    needing = [item for item in items if _tier(item) != "unit"]
    if needing and (reason := missing_library()):
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=reason))
    elif with_images := [item for item in needing if item.get_closest_marker("images")]:
        version = version_of(find_binary())
        for item in with_images if version < (6, 0) else ():
            item.add_marker(
                pytest.mark.skip(reason=f"MongoDB {version[0]}.{version[1]} has no images or no $documents")
            )


def _distribute(items: list[pytest.Item]) -> None:
    """Order the tests for several workers: long ones first, the unit tests last, and the others evenly mixed.

    Tests that use a fixture of their module go to one worker, one after the other, so that the fixture is made once.
    """
    tiers: dict[str, list[pytest.Item]] = {}
    for item in items:
        tiers.setdefault(_tier(item), []).append(item)
        if _uses_module_fixture(item):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    order = []
    for tier, some in tiers.items():
        for index, item in enumerate(some):
            long = item.get_closest_marker("long") or item.get_closest_marker("xdist_group")
            order.append(((not long, tier == "unit", index / len(some)), item))
    items[:] = [item for _, item in sorted(order, key=lambda one: one[0])]


def _uses_module_fixture(item: pytest.Item) -> bool:
    found = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
    return any(fixture.scope == "module" for fixtures in found for fixture in fixtures)


def _tier(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT).parts[0]


@pytest.fixture(scope="session")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Return a replica set of one node that all tests of a worker share. Do not stop it, and use only your own
    databases."""
    with ReplicaSet(tmp_path_factory.mktemp("mongod")) as shared:
        yield shared


@pytest.fixture(scope="session")
def mongo(replica_set: ReplicaSet) -> Iterator[Client]:
    with replica_set.client() as client:
        yield client


@pytest.fixture
def database(mongo: Client) -> Iterator[Db]:
    """Yield a database of the test's own, and drop it afterwards. Its name has no words that a test may search the log
    for."""
    fresh = mongo[f"test_{secrets.token_hex(4)}"]
    yield fresh
    mongo.drop_database(fresh)


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[ReplicaSet]:
    """Yield a replica set of the test's own that keeps no history for reads in the past."""
    arguments = ("--setParameter", "minSnapshotHistoryWindowInSeconds=0")
    with ReplicaSet(tmp_path / "forgetful", arguments=arguments) as own:
        yield own


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Yield an exit stack that is closed when the test ends, before the test's database is dropped."""
    with contextlib.ExitStack() as entered:
        yield entered


@pytest.fixture
def serve(database: Db, replica_set: ReplicaSet, tmp_path: Path, stack: contextlib.ExitStack) -> Serve:
    """Return ``serve(schema, mappings, …)``, which starts a zmsd on the test's database and waits until it is ready.

    Its arguments are those of ZmsdProcess. With ``start=False`` the test starts it.
    """
    numbers = itertools.count()

    def serve(schema: Any, mappings: Any = None, *, start: bool = True, **options: Any) -> ZmsdProcess:
        uri = options.pop("uri", replica_set.uri(database.name))
        directory = tmp_path / f"zmsd{next(numbers)}"
        process = stack.enter_context(ZmsdProcess(directory, uri, schema, mappings, **options))
        return process.start() if start else process

    return serve


@pytest.fixture
def follow(stack: contextlib.ExitStack) -> Follow:
    """Return ``follow(zmsd)``, which connects a client and waits for the end of its initial sync.

    Its arguments are those of ChangeSourceClient. With ``wait=False`` it does not wait.
    """

    def follow(process: ZmsdProcess, *, wait: bool = True, **options: Any) -> ChangeSourceClient:
        client = stack.enter_context(ChangeSourceClient(process.port, **options))
        if wait:
            client.wait_initial()
        return client

    return follow
