"""``zmsd verify``: what it reports of equal rows, of rows changed by hand, and across a schema change."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from pymongo.errors import BulkWriteError

from tests.integration.chat import MAPPINGS, SCHEMA, create_collections
from tests.support.daemon import ROOT, ZmsdProcess, run_zmsd
from tests.support.mongod import Client, ReplicaSet
from tests.support.types import Db, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer, mappings_of, schema_of
from zmsd.assembly import publication_of
from zmsd.commands.daemon_client import Target
from zmsd.commands.verify import serving
from zmsd.config import settings as config
from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.rows.rejects import Rejects
from zmsd.schema.loading import load_documents
from zmsd.verify.comparison import Comparison, TableResult
from zmsd.verify.row_file import RowFile
from zmsd.verify.stream import Applier, Follower

VALUES: list[Any] = [
    *(None, True, 0, -7, 2**53, Int64(2**53 + 1), 1.5, 5.0, 1e20, 5e-324, -0.0, float("nan"), float("inf")),
    *(Decimal128("1E+19"), "text", "", "a\u0000b", 'żółw 🐢 \u2028 \\ "', ObjectId("65f000000000000000000001")),
    *([1, "two", None, [3.5]], {"a": {"b": [1, {"c": "ü\u0000"}]}, "n": Int64(2**60)}),
]
VALUE_SCHEMA = {
    "value": {
        "columns": {c: {"type": t} for c, t in {"id": "string", "s": "string", "n": "number", "j": "json"}.items()},
        "primaryKey": ["id"],
    },
    "pair": {
        "columns": {c: {"type": t} for c, t in {"b": "number", "a": "string", "t": "string"}.items()},
        "primaryKey": ["a", "b"],
    },
    "computed": {"columns": {"id": {"type": "string"}, "size": {"type": "number"}}, "primaryKey": ["id"]},
}
VALUE_MAPPINGS = {
    "value": {"collection": "values", "fields": {"id": "_id", "s": "v", "n": "v", "j": "v"}},
    "pair": {"collection": "values", "fields": {"a": "_id", "b": "number", "t": "v"}},
    "computed": {"collection": "values", "projection": {"id": "$_id", "size": {"$strLenCP": "$_id"}}},
}


def verify(zmsd: ZmsdProcess, *arguments: str, code: int = 0) -> str:
    """Run the command with the daemon's own settings, and return what it prints."""
    done = run_zmsd("verify", "--config", "zmsd.yaml", *arguments, cwd=zmsd.directory, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


class Replica:
    """The rows that a daemon has sent, for a test that changes them by hand."""

    def __init__(self, zmsd: ZmsdProcess, directory: Path) -> None:
        self._settings = config.load(zmsd.config_file, {})
        self._zmsd = zmsd
        daemon = Target(f"127.0.0.1:{zmsd.port}")
        self._source = Source(self._settings.mongodb.uri, self._settings.mongodb.database)
        self.rows = RowFile(directory)
        self.follower = Follower(
            Applier(self.rows),
            lambda watermark: daemon.follow("zmsd_verify", 0, None),
            lambda: serving(daemon),
            self._source.operation_time,
            lambda text: None,
        )

    def close(self) -> None:
        self.follower.close()
        self.rows.close()
        self._source.close()

    def compare(self) -> dict[str, TableResult]:
        """Follow the stream, compare, and return the result of each table."""
        reached = self.follower.advance()
        return self.compare_at(reached)

    def compare_at(self, reached: Any, advance: Callable[[], Any] | None = None) -> dict[str, TableResult]:
        settings = config.load(self._zmsd.config_file, {})
        publication = publication_of(settings, load_documents(settings, keep=False))
        assert reached.publication == publication.fingerprint
        active = ActivePublication(publication, self._source, Rejects(), Event())
        follow = advance or self.follower.advance
        comparison = Comparison(active, self.rows, reached, follow, 10, lambda text: None)
        return {result.table: result for result in comparison.run()}


@contextmanager
def replica(zmsd: ZmsdProcess, directory: Path) -> Iterator[Replica]:
    found = Replica(zmsd, directory)
    try:
        yield found
    finally:
        found.close()


def test_verify_of_every_kind_of_value_finds_no_difference(database: Db, serve: Serve, tmp_path: Path) -> None:
    database["values"].insert_many([{"_id": f"copied {n}", "v": v, "number": n / 2} for n, v in enumerate(VALUES)])
    zmsd = serve(VALUE_SCHEMA, VALUE_MAPPINGS)
    metrics = tmp_path / "zmsd.prom"
    text = verify(zmsd, "--stream", "--metrics", str(metrics))
    for table in VALUE_SCHEMA:
        assert f"{table}: {len(VALUES)} rows, {len(VALUES)} equal, no difference at " in text
    assert f'zmsd_verify_rows{{database="{database.name}",table="value"}} {len(VALUES)}\n' in metrics.read_text()
    assert f'zmsd_verify_result{{database="{database.name}"}} 0' in metrics.read_text()
    report = json.loads(verify(zmsd, "--stream", "--json"))
    assert report["equal"]
    assert {table["table"]: table["equal"] for table in report["tables"]} == dict.fromkeys(VALUE_SCHEMA, len(VALUES))


def test_verify_under_load_finds_no_difference(mongo: Client, database: Db, serve: Serve) -> None:
    collections = ["alpha", "beta"]
    zmsd = serve(schema_of(collections), mappings_of(collections))
    with Writer(mongo, database.name, collections) as writer:
        writer.seed(300)
        writer.start(100_000)
        for _ in range(2):
            assert "different" not in verify(zmsd, "--stream")
        assert writer._left, "it wrote all the time"
        writer.stop()


def test_rows_changed_by_hand_are_reported_exactly(database: Db, serve: Serve, tmp_path: Path) -> None:
    database.users.insert_many([{"_id": f"u{n}", "name": f"name {n}", "address": {"city": "Rome"}} for n in range(5)])
    zmsd = serve(SCHEMA, MAPPINGS)
    with replica(zmsd, tmp_path) as copied:
        reached = copied.follower.advance()
        with copied.rows.transaction():
            copied.rows.put("user", '{"id":"u1"}', '{"id":"u1","name":"other","city":"Rome"}')
            copied.rows.delete("user", '{"id":"u2"}')
            copied.rows.put("user", '{"id":"u9"}', '{"id":"u9","name":"extra","city":null}')
        results = copied.compare_at(reached)
    user = results.pop("user")
    assert (user.rows, user.equal, user.missing, user.extra, user.different) == (5, 3, 1, 1, 1)
    assert {one.kind: (one.key, one.columns) for one in user.differences} == {
        "different": ('{"id":"u1"}', ("name",)),
        "missing": ('{"id":"u2"}', ()),
        "extra": ('{"id":"u9"}', ()),
    }
    assert all(result.is_equal for result in results.values())


def test_schema_change_in_between_is_followed(database: Db, serve: Serve, tmp_path: Path) -> None:
    create_collections(database)
    database.users.insert_many([{"_id": f"u{n}", "name": f"name {n}", "age": n} for n in range(20)])
    zmsd = serve(SCHEMA, MAPPINGS)
    with replica(zmsd, tmp_path) as copied:
        before = copied.follower.advance().publication
        schema = json.loads(json.dumps(SCHEMA))
        mappings = json.loads(json.dumps(MAPPINGS))
        schema["user"]["columns"]["age"] = {"type": "number", "optional": True}
        del schema["user"]["columns"]["city"], mappings["user"]["fields"]["city"], schema["room"], mappings["room"]
        mappings["user"]["fields"]["name"] = "age"
        zmsd.write(schema, mappings)
        zmsd.signal(signal.SIGHUP)
        zmsd.wait_log("reloaded")
        database.users.update_one({"_id": "u3"}, {"$set": {"age": 99}})
        wait_until(lambda: copied.follower.advance().publication != before, "the stream has the new publication")
        results = copied.compare()
    assert set(results) == {"user", "userMessage", "systemMessage", "imageMessage"}
    assert (results["user"].rows, results["user"].equal) == (20, 20)


def test_scan_beyond_the_snapshot_goes_on_at_a_later_position(
    database: Db, replica_set: ReplicaSet, serve: Serve, tmp_path: Path
) -> None:
    """As when MongoDB drops the snapshot after five minutes."""
    database.users.insert_many([{"_id": f"u{n:04}", "name": f"name {n}"} for n in range(3000)])
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": "database"}})  # so that only the scan fails
    with replica(zmsd, tmp_path) as copied:
        reached = copied.follower.advance()
        database.users.update_one({"_id": "u2999"}, {"$set": {"name": "later"}})
        database.users.insert_one({"_id": "u0000a", "name": "after the documents that were compared"})
        database.users.delete_one({"_id": "u0001"})
        with replica_set.failing("getMore", namespace=f"{database.name}.users", errorCode=239, times=1):
            user = copied.compare_at(reached)["user"]
    assert user.is_equal, user
    assert user.late == 1
    assert user.rows == 2999


def test_capped_collection_is_compared_as_it_is(mongo: Client, database: Db, serve: Serve, tmp_path: Path) -> None:
    """MongoDB cannot read it at a past position, and deletes its oldest documents by itself."""
    database.create_collection("users", capped=True, size=1 << 20, max=200)
    database.users.insert_many([{"_id": f"u{n:04}", "name": f"name {n}"} for n in range(150)])
    zmsd = serve(SCHEMA, MAPPINGS)
    assert re.search("^user: 150 rows, 150 equal, no difference", verify(zmsd, "--stream"), re.MULTILINE)
    with replica(zmsd, tmp_path) as copied:
        reached = copied.follower.advance()
        with copied.rows.transaction():
            copied.rows.delete("user", '{"id":"u0030"}')

        def advance() -> Any:
            """Follow, and write before the documents are read."""
            followed = copied.follower.advance()
            database.users.update_one({"_id": "u0020"}, {"$set": {"name": "NAME 20"}})
            with contextlib.suppress(BulkWriteError):  # the second call
                database.users.insert_many([{"_id": f"v{n:04}", "name": "new"} for n in range(60)])  # deletes ten
            return followed

        user = copied.compare_at(reached, advance)["user"]
    assert (user.extra, user.different, user.missing) == (0, 0, 1), user
    assert [(one.kind, one.key) for one in user.differences] == [("missing", '{"id":"u0030"}')]
    assert user.late == 61
    assert user.equal == 138


def test_verify_that_cannot_compare_gives_the_reason(database: Db, serve: Serve, tmp_path: Path) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    metrics = tmp_path / "zmsd.prom"
    text = verify(zmsd, "--replica", "missing.db", "--metrics", str(metrics), code=2)
    assert text == "error: no replica missing.db: give --replica the value of ZERO_REPLICA_FILE\n"
    assert f'zmsd_verify_result{{database="{database.name}"}} 2\n' in metrics.read_text()
    assert " does not answer: " in verify(zmsd, "--stream", "http://127.0.0.1:9", code=2)


@pytest.mark.skipif(os.environ.get("ZMSD_TEST_LONG") != "1", reason="takes minutes: ZMSD_TEST_LONG=1")
def test_verify_of_1000000_rows_under_load_takes_constant_memory(mongo: Client, database: Db, serve: Serve) -> None:
    collections = ["alpha", "beta"]
    count = 1_000_000
    for start in range(0, count, 10_000):
        documents = [{"_id": f"r{n:07}", "n": n, "text": f"text of {n} " * 5} for n in range(start, start + 10_000)]
        database.alpha.insert_many(documents, ordered=False)
    zmsd = serve(schema_of(collections), mappings_of(collections))
    with Writer(mongo, database.name, collections, pause=0.01) as writer:
        writer.start(100_000)
        command = [sys.executable, "-m", "zmsd", "verify", "--config", "zmsd.yaml", "--stream"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        options: Any = {"cwd": zmsd.directory, "env": environment, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **options) as process:
            assert process.stdout is not None
            text = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        writer.stop()
    print(text, f"{usage.ru_maxrss / 1024:.0f} MiB at most")
    assert process.returncode == 0, text
    (rows,) = re.findall(r"^alpha: ([\d,]+) rows, \1 equal", text, re.MULTILINE)
    assert int(rows.replace(",", "")) >= count
    assert usage.ru_maxrss < 300 << 10  # KiB
