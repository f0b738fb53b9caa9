"""What every test may ask for: a real MongoDB, zmsd on it as a process, and clients of that."""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import signal
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

# A shell ignores SIGINT in what it starts in the background, and so would the processes that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run. No deadline: the machine may be busy.
hypothesis.settings.register_profile("zmsd", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("zmsd")


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    """Undo what a command under test sets up, which would hide log lines from the next test of the process."""
    root, ours = logging.getLogger(), logging.getLogger("zmsd")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers, root.level, ours.level = before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all but the unit tests, with the reason, where mongod cannot be run; and what an old version cannot do."""
    needing = [item for item in items if "unit" not in item.path.relative_to(ROOT).parts]
    if needing and (reason := missing_library()):
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=reason))
    elif with_images := [item for item in needing if item.get_closest_marker("images")]:
        version = version_of(find_binary())
        for item in with_images if version < (6, 0) else ():
            item.add_marker(
                pytest.mark.skip(reason=f"MongoDB {version[0]}.{version[1]} has no images or no $documents")
            )


@pytest.fixture(scope="session")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """One node, shared by the tests of a worker: leave its databases alone that are not yours, and let it run."""
    with ReplicaSet(tmp_path_factory.mktemp("mongod")) as shared:
        yield shared


@pytest.fixture(scope="session")
def mongo(replica_set: ReplicaSet) -> Iterator[Client]:
    with replica_set.client() as client:
        yield client


@pytest.fixture
def database(mongo: Client) -> Iterator[Db]:
    """A database of the test's own, gone afterwards. Its name has no words that a test may search the log for."""
    fresh = mongo[f"test_{secrets.token_hex(4)}"]
    yield fresh
    mongo.drop_database(fresh)


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[ReplicaSet]:
    """A replica set of the test's own that keeps no history for reads in the past."""
    arguments = ("--setParameter", "minSnapshotHistoryWindowInSeconds=0")
    with ReplicaSet(tmp_path / "forgetful", arguments=arguments) as own:
        yield own


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Entered here, left when the test ends, before its database goes."""
    with contextlib.ExitStack() as entered:
        yield entered


@pytest.fixture
def serve(database: Db, replica_set: ReplicaSet, tmp_path: Path, stack: contextlib.ExitStack) -> Serve:
    """``serve(schema, mappings, …)``: a zmsd on the test's database, ready; arguments as of ZmsdProcess.

    ``start=False`` leaves the start to the test.
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
    """``follow(zmsd)``: a client that has its copy and streams; arguments as of ChangeSourceClient.

    ``wait=False`` does not wait for the copy.
    """

    def follow(process: ZmsdProcess, *, wait: bool = True, **options: Any) -> ChangeSourceClient:
        client = stack.enter_context(ChangeSourceClient(process.port, **options))
        if wait:
            client.wait_initial()
        return client

    return follow
