"""``zmsd plan``: what a reload would do, compared with what the reload then does."""

from __future__ import annotations

import copy
import json
import signal

from tests.integration.chat import MAPPINGS, SCHEMA, create_collections, table
from tests.support.daemon import ZmsdProcess, run_zmsd
from tests.support.types import Db, Follow, Serve


def plan(zmsd: ZmsdProcess, *arguments: str, code: int = 0) -> str:
    done = run_zmsd("plan", "--config", "zmsd.yaml", *arguments, cwd=zmsd.directory)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
    return done.stdout


def test_plan_announces_what_the_reload_does(database: Db, serve: Serve, follow: Follow) -> None:
    create_collections(database)
    database.users.insert_many([{"_id": n} for n in range(1200)])
    zmsd = serve(SCHEMA, MAPPINGS, start=False)
    none = "no daemon runs with this state directory: a start applies all settings"
    assert plan(zmsd).splitlines() == ["no replica is on record: the first initial sync sends 5 tables", none]

    zmsd.start()
    client = follow(zmsd)
    assert plan(zmsd).splitlines() == ["replicas of zero_0:", "  unchanged: 5 tables"]
    schema, mappings = copy.deepcopy(SCHEMA), copy.deepcopy(MAPPINGS)
    schema["user"]["columns"]["age"] = {"type": "number", "optional": True}
    schema["tag"] = {"tableName": "tag", **table(id="string")}
    mappings["tag"] = {"collection": "tags", "fields": {"id": "_id"}}
    del schema["room"], mappings["room"]
    zmsd.write(schema, mappings, {"feed": {"heartbeat": 30}, "log": {"level": "debug"}})
    assert plan(zmsd).splitlines() == [
        "replicas of zero_0:",
        "  drop table room",
        "  add table tag: read tags, about 0 documents",
        "  change table user: add column age (number), read users again, about 1,200 documents",
        "  unchanged: 3 tables",
        "a restart is needed for: feed.heartbeat",
    ]
    zmsd.signal(signal.SIGHUP)
    (line,) = zmsd.wait_log("reloaded")
    assert line.endswith("reloaded tables=5 added=tag dropped=room changed=user(+age) unchanged=3"), line
    assert zmsd.log("changed settings need a restart settings=feed.heartbeat")
    client.wait_for(lambda replica: "tag" in replica.tables, "the schema change")
    assert plan(zmsd).splitlines()[:2] == ["replicas of zero_0:", "  unchanged: 5 tables"]

    schema["user"]["columns"]["name"]["type"] = "json"
    zmsd.write(schema)
    report = json.loads(plan(zmsd, "--json", code=2))
    assert report["restart"] == ["feed.heartbeat"]
    (step,) = report["replicas"]
    assert step["reset_required"] == ["table user: the type of column name was string, is json"]
    assert step["shards"] == ["zero_0"]
