"""``zmsd verify --replica`` on the file of a real zero-cache."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from pymongo.errors import OperationFailure

from tests.e2e import chat
from tests.e2e.conftest import Zero
from tests.e2e.test_sync import MAPPINGS, SCHEMA, VALUES
from tests.support.daemon import ZmsdProcess, run_zmsd
from tests.support.mongod import ReplicaSet
from tests.support.node import Workspace
from tests.support.types import Db, Serve
from tests.support.wait import wait_until
from tests.support.zero import ZeroCache
from zmsd import position
from zmsd.verify.replica_file import ReplicaFile, find_shell


def shell_of(workspace: Workspace, directory: Path) -> Path:
    return find_shell(workspace.path / "node_modules/.bin/zero-sqlite3", directory, directory)


def wait_current(database: Db, cache: ZeroCache, shell: Path) -> None:
    """Wait until the replica has everything that MongoDB has now."""
    target = position.watermark(position.of_timestamp(database.command("ping")["operationTime"]))

    def is_current() -> bool:
        with ReplicaFile(cache.replica, shell) as replica:
            return replica.state().watermark >= target

    wait_until(is_current, f"the replica is at {target}", 60)


def verify(zmsd: ZmsdProcess, cache: ZeroCache, shell: Path, *arguments: str, code: int = 0) -> str:
    """Run the command, and return what it prints."""
    options = ["--config", "zmsd.yaml", "--replica", str(cache.replica), "--sqlite3", str(shell), *arguments]
    done = run_zmsd("verify", *options, cwd=zmsd.directory, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def change(shell: Path, cache: ZeroCache, statements: str) -> None:
    subprocess.run([shell, "-bail", cache.replica], input=statements, text=True, check=True, timeout=30)


def test_rows_of_the_chat_changed_by_hand_are_reported_exactly(
    database: Db, serve: Serve, zero_cache: Callable[..., ZeroCache], workspace: Workspace, tmp_path: Path
) -> None:
    chat.fill(database)
    zmsd = serve(chat.SCHEMA, chat.MAPPINGS, settings=chat.SETTINGS | {"feed": {"heartbeat": 1}})
    cache = zero_cache(zmsd)
    shell = shell_of(workspace, tmp_path)
    database.users.insert_many([{"_id": f"u{n}", "name": f"name {n}", "online": bool(n % 2)} for n in range(50)])
    database.users.update_one({"_id": "u7"}, {"$set": {"name": "seven"}})
    wait_current(database, cache, shell)
    text = verify(zmsd, cache, shell)  # zero-cache runs
    assert re.search(r"^user: 52 rows, 52 equal, no difference at \w+ in ", text, re.MULTILINE)
    assert len(text.splitlines()) == len(chat.SCHEMA.get("tables", chat.SCHEMA))

    cache.kill()
    insert = "CREATE TEMP TABLE t AS SELECT * FROM user WHERE id = 'u1'; UPDATE t SET id = 'u99';"
    change(shell, cache, f"{insert} INSERT INTO user SELECT * FROM t;")
    change(shell, cache, "UPDATE user SET name = 'other', online = 1 - online WHERE id = 'u2';")
    change(shell, cache, "DELETE FROM user WHERE id = 'u3';")
    report = json.loads(verify(zmsd, cache, shell, "--json", "--show-values", code=1))
    (user,) = (table for table in report["tables"] if table["table"] == "user")
    assert {name: user[name] for name in ("rows", "equal", "missing", "extra", "different")} == {
        **{"rows": 52, "equal": 50, "missing": 1, "extra": 1, "different": 1}
    }
    found = {one["kind"]: one for one in user["differences"]}
    assert found["missing"]["key"] == {"id": "u3"}
    assert found["extra"]["key"] == {"id": "u99"}
    assert found["different"]["key"] == {"id": "u2"}
    assert found["different"]["values"] == {
        "name": {"replica": "other", "mongodb": "name 2"},
        "online": {"replica": True, "mongodb": False},
    }
    assert not [t for t in report["tables"] if t["table"] != "user" and (t["missing"] or t["extra"] or t["different"])]


def test_every_value_in_the_replica_is_equal(
    database: Db, serve: Serve, zero: Callable[..., Zero], workspace: Workspace, tmp_path: Path
) -> None:
    database["values"].insert_many([{"_id": f"copied-{name}", "v": value} for name, value in VALUES.items()])
    columns = {"_id": {"type": "string"}} | {f"c{number}": {"type": "number"} for number in range(1100)}
    wide = {"wide": {"columns": columns, "primaryKey": ["_id"]}}  # an expression in SQLite has at most 1000 levels
    database["wide"].insert_one({"_id": "one", "c7": 7})
    zmsd = serve(SCHEMA | wide, MAPPINGS, settings={"feed": {"heartbeat": 1}})
    cache = zero(zmsd, SCHEMA).cache
    shell = shell_of(workspace, tmp_path)
    database["values"].insert_many([{"_id": f"streamed-{name}", "v": value} for name, value in VALUES.items()])
    wait_current(database, cache, shell)
    report = verify(zmsd, cache, shell)
    assert f"value: {2 * len(VALUES)} rows, {2 * len(VALUES)} equal, no difference" in report
    assert "wide: 1 rows, 1 equal, no difference" in report


def test_replica_older_than_mongodb_s_history_is_followed(
    forgetful: ReplicaSet, serve: Serve, zero: Callable[..., Zero], workspace: Workspace, tmp_path: Path
) -> None:
    """Its rows and the changes since then are compared at a newer position; the file stays as it is."""
    database = forgetful.client()["old"]
    database["values"].insert_many([{"_id": f"copied-{name}", "v": value} for name, value in VALUES.items()])
    zmsd = serve(SCHEMA, MAPPINGS, uri=forgetful.uri("old"), settings={"feed": {"heartbeat": 1}})
    cache = zero(zmsd, SCHEMA).cache
    shell = shell_of(workspace, tmp_path)
    wait_current(database, cache, shell)
    cache.kill()
    with ReplicaFile(cache.replica, shell) as replica:
        old = replica.state().watermark
    database["values"].insert_many([{"_id": f"later-{name}", "v": value} for name, value in VALUES.items()])
    database["values"].delete_one({"_id": "copied-text"})
    at = {"level": "snapshot", "atClusterTime": position.to_timestamp(position.parse(old)[0])}

    def forgotten() -> bool:
        try:
            database.command({"find": "values", "limit": 1, "singleBatch": True, "readConcern": at})
        except OperationFailure:
            return True
        return False

    wait_until(forgotten, "MongoDB has forgotten the replica's position", 60)
    rows = database["values"].count_documents({})
    assert f"value: {rows} rows, {rows} equal, no difference" in verify(zmsd, cache, shell)
    with ReplicaFile(cache.replica, shell) as replica:
        assert replica.state().watermark == old
