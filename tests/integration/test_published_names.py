"""Published names that are not collections, do not exist yet, or no longer do."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.tally import pick
from tests.integration.chat import named, table
from tests.support.client import ChangeSourceClient
from tests.support.compare import assert_same
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until

SCHEMA = named(m=table(id="string", n="number"), end=table(id="string"))
MAPPINGS = {
    "m": {"collection": "m", "fields": {"id": "_id", "n": "n"}},
    "end": {"collection": "ends", "fields": {"id": "_id"}},
}


def make_view(database: Db) -> None:
    database.src.insert_many([{"_id": "s1", "n": 1}, {"_id": "s2", "n": 2}])
    database.command({"create": "m", "viewOn": "src", "pipeline": []})


def make_time_series(database: Db) -> None:
    database.create_collection("m", timeseries={"timeField": "at"})


SOME = [
    (make_view, "collection", "auto"),
    (make_time_series, "collection", "off"),
    (make_time_series, "database", "auto"),
    (make_view, "database", "off"),
]
ALL = [(make, scope, images) for make in (make_view, make_time_series) for _, scope, images in SOME]
KINDS = pytest.mark.parametrize(("make", "scope", "images"), pick(SOME, ALL))
"""What has the name, scope and images: each pair of them, and in the long version each combination."""


def problems(zmsd: ZmsdProcess) -> dict[str, str]:
    """Return published name -> kind of problem, from /status.json."""
    return {one["name"]: one["kind"] for one in json.loads(zmsd.get("/status.json")[1])["problems"]}


def published_missing(zmsd: ZmsdProcess, what: str) -> bool:
    return f'zmsd_published_missing{{what="{what}"}} 1\n' in zmsd.get("/metrics")[1]


def end(database: Db, client: ChangeSourceClient, name: str) -> None:
    """Wait until the client has everything that was written so far."""
    database.ends.insert_one({"_id": name})
    client.wait_for(lambda replica: (name,) in replica.rows["end"], f"all before {name}", 30)


def reported(zmsd: ZmsdProcess) -> None:
    """Wait until the name is reported everywhere."""
    wait_until(lambda: problems(zmsd).get("m") == "type", "it is reported", 20)
    status, text = zmsd.get("/readyz")
    assert status == 200
    assert "note: m is a " in text
    assert published_missing(zmsd, "type")
    assert len(zmsd.log("WARNING.*published.*name=m .*no change streams")) == 1


def problem_solved(zmsd: ZmsdProcess) -> None:
    wait_until(lambda: "m" not in problems(zmsd), "the problem is no longer reported", 20)
    assert zmsd.get("/readyz") == (200, "ready\n")
    assert zmsd.log("INFO.*published name solved.*name=m ")


@KINDS
def test_name_without_collection_at_start_leaves_other_tables_served(
    make: Callable[[Db], None], scope: str, images: str, database: Db, serve: Serve, follow: Follow
) -> None:
    make(database)
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope, "images": images}})
    client = follow(zmsd)
    end(database, client, "first")
    reported(zmsd)
    assert client.replica.rows["m"] == {}
    database.drop_collection("m")
    database.m.insert_many([{"_id": "a", "n": 1}, {"_id": "b", "n": 2}])
    database.m.update_one({"_id": "a"}, {"$inc": {"n": 1}})
    end(database, client, "second")
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
    problem_solved(zmsd)


@KINDS
def test_name_that_stops_being_a_collection_empties_its_table(
    make: Callable[[Db], None], scope: str, images: str, database: Db, serve: Serve, follow: Follow
) -> None:
    database.m.insert_one({"_id": "before", "n": 0})
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope, "images": images}})
    client = follow(zmsd)
    client.wait_rows("m", 1)
    database.drop_collection("m")
    make(database)
    end(database, client, "first")
    database.src.update_one({"_id": "s1"}, {"$set": {"n": 100}})
    reported(zmsd)
    assert client.replica.rows["m"] == {}
    newcomer = follow(zmsd, app="newcomer")
    assert newcomer.replica.rows["m"] == {}
    # A collection that exists only briefly, after which the name is a view again.
    database.drop_collection("m")
    database.m.insert_one({"_id": "brief", "n": 1})
    database.m.update_one({"_id": "brief"}, {"$inc": {"n": 1}})
    database.drop_collection("m")
    database.src.drop()
    make(database)
    end(database, client, "second")
    assert client.replica.rows["m"] == {}
    database.drop_collection("m")
    database.m.insert_one({"_id": "after", "n": 1})
    for one in (client, newcomer):
        one.wait_rows("m", 1)
    end(database, client, "third")
    newcomer.wait_for(lambda replica: ("third",) in replica.rows["end"], "the newcomer has it, too", 30)
    for one in (client, newcomer):
        assert_same(database, SCHEMA, MAPPINGS, one.replica)
    problem_solved(zmsd)


SETTINGS = pick(
    [("collection", "off"), ("database", "auto")],
    list(itertools.product(("collection", "database"), ("off", "auto"))),
)


@pytest.mark.parametrize(("scope", "images"), SETTINGS)
def test_name_that_becomes_a_view_while_zmsd_is_down_empties_its_table(
    scope: str, images: str, database: Db, serve: Serve, follow: Follow
) -> None:
    database.m.insert_one({"_id": "before", "n": 0})
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope, "images": images}})
    client = follow(zmsd)
    client.wait_rows("m", 1)
    zmsd.kill()
    database.m.update_one({"_id": "before"}, {"$inc": {"n": 1}})
    database.drop_collection("m")
    make_view(database)
    zmsd.start()
    end(database, client, "first")
    assert client.replica.rows["m"] == {}
    assert client.replica.reset_required is None
    reported(zmsd)


def test_missing_collection_is_reported_until_it_exists(database: Db, serve: Serve) -> None:
    database.create_collection("ends")
    zmsd = serve(SCHEMA, MAPPINGS)
    wait_until(lambda: problems(zmsd) == {"m": "collection"}, "it is reported", 20)
    assert published_missing(zmsd, "collection")
    assert "problem" in json.loads(zmsd.get("/status.json")[1])["state"]
    assert len(zmsd.log("WARNING.*published.*name=m .*does not exist")) == 1
    zmsd.write(mappings={**MAPPINGS, "end": {"collection": "mistake", "fields": {"id": "_id"}}})
    zmsd.signal(signal.SIGHUP)
    wait_until(lambda: problems(zmsd) == {"m": "collection", "mistake": "collection"}, "both are", 20)
    assert len(zmsd.log("WARNING.*published.*name=mistake .*does not exist")) == 1
    database.create_collection("mistake")
    database.create_collection("m")
    wait_until(lambda: problems(zmsd) == {}, "both are there", 20)
    assert published_missing(zmsd, "collection") is False


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_new_collection_without_the_privilege_for_images_is_reported(
    mode: str, tmp_path: Any, stack: contextlib.ExitStack, follow: Follow
) -> None:
    """``auto`` serves and reports it. ``required`` rejects its rows until the privilege is granted."""
    replica_set = stack.enter_context(ReplicaSet(tmp_path / "mongod", auth=True))
    database: Db = stack.enter_context(replica_set.client())["chat"]
    database.create_collection("ends", changeStreamPreAndPostImages={"enabled": True})
    database.command("createUser", "zmsd", pwd="zmsd", roles=["read"])
    uri = replica_set.uri("chat", ("zmsd", "zmsd")).replace("authSource=admin", "authSource=chat")
    zmsd = ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS, settings={"feed": {"images": mode}})
    stack.enter_context(zmsd).start()
    client = follow(zmsd)
    database.m.insert_one({"_id": "first", "n": 1})
    database.m.update_one({"_id": "first"}, {"$inc": {"n": 1}})
    if mode == "auto":
        client.wait_rows("m", 1)
        wait_until(lambda: problems(zmsd) == {"m": "images"}, "it is reported", 20)
        assert published_missing(zmsd, "images")
        assert zmsd.log("WARNING.*published.*name=m .*images")
    else:
        wait_until(lambda: "feed.images is required" in zmsd.get("/readyz")[1], "the reason", 20)
        assert zmsd.get("/readyz")[0] == 503
        assert client.replica.rows["m"] == {}
    database.command("grantRolesToUser", "zmsd", roles=["dbAdmin"])
    wait_until(lambda: zmsd.ready() and not problems(zmsd), "it has images", 40)
    database.m.update_one({"_id": "first"}, {"$inc": {"n": 1}})
    end(database, client, "end")
    assert_same(database, SCHEMA, MAPPINGS, client.replica)


def test_field_that_no_document_has_is_reported_at_start_and_reload(database: Db, serve: Serve) -> None:
    database.m.insert_many([{"_id": str(number), "n": number} for number in range(10)])
    database.create_collection("ends")
    schema = named(m={"columns": {"id": {"type": "string"}, "n": {"type": "number"}}, "primaryKey": ["id"]})
    mappings = {"m": {"collection": "m", "fields": {"id": "_id", "n": "nn"}}}
    zmsd = serve(schema, mappings)
    wait_until(lambda: problems(zmsd) == {"m.n": "field"}, "it is reported", 20)
    assert published_missing(zmsd, "field")
    assert len(zmsd.log(r"WARNING.*published.*name=m\.n .*field nn.*none of 10")) == 1
    zmsd.write(mappings={"m": {"collection": "m", "fields": {"id": "_id", "n": "n"}}})
    zmsd.signal(signal.SIGHUP)
    wait_until(lambda: problems(zmsd) == {}, "it is right", 20)
    zmsd.write(mappings={"m": {"collection": "m", "fields": {"id": "key", "n": "n"}}})
    zmsd.signal(signal.SIGHUP)
    wait_until(lambda: problems(zmsd) == {"m.id": "field"}, "the key is reported", 20)
    assert len(zmsd.log(r"WARNING.*published.*name=m\.id .*field key.*no row can be sent")) == 1
