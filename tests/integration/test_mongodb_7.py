"""The main job with MongoDB 7.0.28, where its binary and wine are there; ``make compat-mongodb`` runs much more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checker import check
from tests.support.compare import assert_same
from tests.support.mongod import ReplicaSet, version_of
from tests.support.stub import lexi
from tests.support.types import Follow, Serve
from tests.support.writer import Writer, mappings_of, schema_of

BINARY = Path(__file__).parents[2] / ".cache" / "mongods" / "7.0.28" / "mongod"
COLLECTIONS = ("a", "b", "c")
SCHEMA, MAPPINGS = schema_of(COLLECTIONS), mappings_of(COLLECTIONS)


@pytest.fixture(scope="module")
def mongodb_7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    if not BINARY.exists() or not shutil.which("wine"):
        pytest.skip("no MongoDB 7.0.28: apt-get install wine64 wine, and tests/support/fetch_mongods.sh .cache/mongods")
    with ReplicaSet(tmp_path_factory.mktemp("seven"), binary=BINARY) as own:
        yield own


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_every_change_arrives_exactly_once_with_mongodb_7(
    scope: str, mongodb_7: ReplicaSet, serve: Serve, follow: Follow
) -> None:
    """Initial sync under load, single writes, transactions over three collections, a kill of zmsd, two clients."""
    assert version_of(BINARY) == (7, 0, 28)
    with mongodb_7.client() as mongo:
        database = mongo[scope]
        for name in COLLECTIONS:
            database.create_collection(name)
        with Writer(mongo, scope, COLLECTIONS, threads=2) as writer:
            writer.seed(2000)
            zmsd = serve(SCHEMA, MAPPINGS, uri=mongodb_7.uri(scope), settings={"feed": {"scope": scope}})
            writer.start(600)
            clients = [follow(zmsd, shard=0), follow(zmsd, shard=1)]
            zmsd.kill()
            zmsd.start()
            writer.wait(120)
        last = lexi(writer.last_position())
        for client in clients:
            client.wait_for(lambda replica: replica.watermark >= last, "the last write", 120)
            check(writer.log, client.replica).assert_clean()
            assert_same(database, SCHEMA, MAPPINGS, client.replica)
