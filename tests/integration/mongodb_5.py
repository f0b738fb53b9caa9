"""What zmsd does not do with MongoDB 5.0, which has no pre- and post-images, and no ``$documents`` before 5.1.

``make compat-mongodb`` runs this; no part of ``make test``. Everything else that it runs passes with 5.0, except the
tests that are marked ``images``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.chat import named, table
from tests.integration.test_check import Checker, one
from tests.support.compare import assert_same
from tests.support.mongod import Client, ReplicaSet
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until

SCHEMA = named(a=table(id="string", n="number"))
BY_ID = {"a": {"collection": "a", "fields": {"id": "_id"}}}
BY_CODE = {"a": {"collection": "a", "fields": {"id": "code"}}}
COMPUTED = {"a": {"source": "a", "projection": {"id": "$_id", "n": {"$add": ["$n", 1]}}}}


@pytest.fixture(autouse=True)
def _only_with_mongodb_5(mongo: Client) -> None:
    version = mongo.server_info()["version"]
    if not version.startswith("5.0"):
        pytest.skip(f"this is MongoDB {version}")


def test_plain_table_by_id_follows_every_change(database: Db, serve: Serve, follow: Follow) -> None:
    database.a.insert_many({"_id": f"{number}", "n": number} for number in range(10))
    zmsd = serve(SCHEMA, BY_ID)
    assert zmsd.log("WARNING.*no pre- and post-images.*MongoDB 5.0.*upgrade to 6.0 or later")
    client = follow(zmsd)
    database.a.update_many({}, {"$inc": {"n": 100}})
    database.a.delete_one({"_id": "3"})
    database.a.insert_one({"_id": "end", "n": 1})
    client.wait_for(lambda replica: ("end",) in replica.rows["a"], "the last write")
    assert_same(database, SCHEMA, BY_ID, client.replica)


def test_table_that_needs_pre_images_is_refused(database: Db, serve: Serve) -> None:
    database.a.insert_one({"code": "x"})
    zmsd = serve(SCHEMA, BY_CODE, start=False).start(ready=False)
    wait_until(lambda: "upgrade to 6.0 or later" in zmsd.get("/readyz")[1], "the reason", 30)


def test_computed_table_is_refused(database: Db, serve: Serve) -> None:
    database.a.insert_one({"_id": "x", "n": 1})
    zmsd = serve(SCHEMA, COMPUTED, start=False).start(ready=False)
    wait_until(lambda: "needs MongoDB 5.1 ($documents)" in zmsd.get("/readyz")[1], "the reason", 30)


def test_check_reports_the_limits(database: Db, replica_set: ReplicaSet, tmp_path: Path) -> None:
    database.a.insert_one({"_id": "x", "n": 1})
    checker = Checker(tmp_path, replica_set.uri(database.name))
    one(checker.lines(0, SCHEMA, BY_ID), "warning: version: MongoDB 5.0.*upgrade to 6.0 or later")
    one(checker.lines(1, SCHEMA, BY_CODE), "error: collection a: .*upgrade to 6.0 or later")
    one(checker.lines(1, SCHEMA, COMPUTED), "error: .*needs MongoDB 5.1")
