"""``zmsd check``: its report on a configuration and on MongoDB, and its exit code."""

from __future__ import annotations

import copy
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bson.int64 import Int64

from tests.integration.chat import COLLECTIONS, MAPPINGS, SCHEMA, named, table
from tests.support.certificates import LOCKED_KEY, ONE, TWO, Certificate
from tests.support.daemon import run_zmsd
from tests.support.mongod import ADMIN, ReplicaSet
from tests.support.ports import free_port
from tests.support.types import Db, Serve
from zmsd.demo.mongod import Mongod
from zmsd.watermarks.base import Identity
from zmsd.watermarks.sqlite import SqliteStore

Check = Callable[..., list[str]]


class Checker:
    """Writes a configuration and runs ``zmsd check`` with it."""

    def __init__(self, directory: Path, uri: str) -> None:
        self.directory = directory
        self._settings: dict[str, dict[str, Any]] = {
            "mongodb": {"uri": uri},
            "schema": {"file": "schema.json"},
            "server": {"port": free_port()},
        }

    def run(
        self, schema: Any = SCHEMA, mappings: Any = MAPPINGS, *arguments: str, **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        (self.directory / "schema.json").write_text(json.dumps(schema))
        config = {
            name: {**self._settings.get(name, {}), **settings.get(name, {})} for name in self._settings | settings
        }
        if mappings is not None:
            (self.directory / "mappings.json").write_text(json.dumps(mappings))
            config["mappings"] = {"file": "mappings.json"}
        (self.directory / "zmsd.yaml").write_text(yaml.safe_dump(config))
        return run_zmsd("check", "--config", "zmsd.yaml", "--verbose", *arguments, cwd=self.directory)

    def lines(self, code: int, *arguments: Any, **settings: Any) -> list[str]:
        """Return the report, and assert the exit code ``code`` and an empty stderr."""
        done = self.run(*arguments, **settings)
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stderr == ""
        found = done.stdout.splitlines()
        assert all(re.match(r"(ok|warning|error): ", line) for line in found[:-1]), found
        faults = sum(line.startswith("error: ") for line in found)
        assert re.match(f"{faults or 'no'} error", found[-1])
        assert bool(faults) == (code == 1)
        return found


@pytest.fixture
def checker(database: Db, replica_set: ReplicaSet, tmp_path: Path) -> Checker:
    for name in COLLECTIONS:
        database.create_collection(name)
    return Checker(tmp_path, replica_set.uri(database.name))


def one(lines: list[str], pattern: str) -> str:
    found = [line for line in lines if re.search(pattern, line)]
    assert len(found) == 1, (pattern, lines)
    return found[0]


def test_check_of_a_good_deployment_reports_ok_and_changes_nothing(database: Db, checker: Checker) -> None:
    database.users.insert_one({"_id": "ann", "name": "Ann"})
    database.command({"collMod": "rooms", "changeStreamPreAndPostImages": {"enabled": True}})
    lines = checker.lines(0)
    assert not [line for line in lines if not line.startswith("ok: ")][:-1]
    one(
        lines,
        r"ok: config: mongodb://127\.0\.0\.1.*, database test_[0-9a-f]+",
    )
    one(lines, r"ok: table user from users: id string, name string, city string")
    one(lines, r"ok: store: .*/watermarks\.db will be created")
    one(lines, r"ok: port: 127\.0\.0\.1:\d+ is free")
    one(lines, r"ok: mongodb: replica set rs0")
    one(lines, r"ok: version: MongoDB \d+\.\d+")
    one(lines, r"ok: privileges: ")
    one(lines, r"ok: oplog: reaches back .* GiB are used")
    one(lines, r"ok: collection users: pre- and post-images will be switched on \(collMod\)")
    one(lines, r"ok: collection rooms: pre- and post-images are on")
    one(lines, r"ok: collection users: _id are string")
    options = database["users"].options()
    assert "changeStreamPreAndPostImages" not in options, "the check changed the collection"
    assert not (checker.directory / "watermarks.db").exists()


def test_view_and_timeseries_and_missing_collection_are_reported(database: Db, checker: Checker) -> None:
    database.drop_collection("rooms")
    database.drop_collection("users")
    database.command({"create": "rooms", "viewOn": "messages", "pipeline": []})
    lines = checker.lines(1)
    assert "messages" in one(lines, "error: collection rooms: is a view")
    one(lines, "warning: collection users: does not exist")
    database.drop_collection("rooms")
    database.command({"create": "rooms", "timeseries": {"timeField": "t"}})
    one(checker.lines(1), "error: collection rooms: is a timeseries")


def test_image_settings_that_tables_need_are_reported(database: Db, checker: Checker) -> None:
    one(checker.lines(0, feed={"images": "off"}), "warning: collection users: feed.images is off.*may not stay whole")
    keyed = {"user": {"collection": "users", "fields": {"id": "name", "name": "name", "city": "city"}}}
    schema = {"user": SCHEMA["user"]}
    one(checker.lines(1, schema, keyed, feed={"images": "off"}), "error: collection users: .*table user needs them")
    zero = {"clients_collection": "zero_clients"}
    database.create_collection("zero_clients")
    one(checker.lines(1, feed={"images": "off"}, zero=zero), "error: collection zero_clients: .* needs them")
    one(checker.lines(0, zero=zero), "ok: collection zero_clients: .*will be switched on")


def test_capped_clustered_and_collated_collections_are_reported(database: Db, checker: Checker) -> None:
    for name in COLLECTIONS:
        database.drop_collection(name)
    database.create_collection("users", capped=True, size=4096)
    database.create_collection("rooms", clusteredIndex={"key": {"_id": 1}, "unique": True})
    database.create_collection("messages", collation={"locale": "en", "strength": 1})
    lines = checker.lines(0)
    one(lines, "ok: collection users: is capped")
    one(lines, "warning: collection messages: compares strings by its collation")
    one(lines, "ok: collection rooms")


def test_ids_that_do_not_fit_the_key_are_reported(database: Db, checker: Checker) -> None:
    database.users.insert_many([{"_id": 1}, {"_id": "1"}, {"_id": {"a": 1}}])
    database.rooms.insert_many([{"_id": 1}, {"_id": "1"}])
    database.messages.insert_many([{"_id": "m1", "kind": "user"}])
    numbers = {**SCHEMA, **named(userMessage=table(id="number", roomId="string", text="string", likes="number"))}
    lines = checker.lines(1, numbers)
    one(lines, r"warning: table user: 1 of 3 _id are object, which does not fit its key id")
    one(lines, r"warning: collection rooms: _id of several types \(1 \w+, 1 \w+ in a sample\)")
    one(lines, r"error: table userMessage: 1 of 1 _id are string, which does not fit its key id")


def test_primary_key_that_no_document_has_is_an_error(database: Db, checker: Checker) -> None:
    """Without a mapping, ``id`` is read as a field: the most common first mistake."""
    database.users.insert_many([{"_id": n, "name": "x"} for n in range(3)])
    database.rooms.insert_many([{"_id": n, **({} if n else {"code": "a"})} for n in range(3)])
    schema = named(users=table(id="string", name="string"), room=table(id="string", title="string"))
    lines = checker.lines(1, schema, {"room": {"collection": "rooms", "fields": {"id": "code", "title": "title"}}})
    error = one(lines, "^error: ")
    assert re.search("table users: column id: none of 3 documents .*primary key: no row can be sent: .*_id", error)
    one(lines, "warning: table room: column id: 2 of 3 documents have no value in field code, .*not sent")


def test_numeric_keys_beyond_2_to_53_are_reported(database: Db, checker: Checker) -> None:
    """Equal int, long and double values are the same key; beyond 2^53 different keys may become one."""
    database.users.insert_many([{"_id": 1}, {"_id": Int64(2)}, {"_id": 3.0}])
    database.rooms.insert_many([{"_id": Int64(2**53 + 1)}, {"_id": 1}])
    database.messages.insert_one({"_id": "m", "code": Int64(-(2**60))})
    schema = named(user=table(id="number"), name=table(id="string"), room=table(id="number"), code=table(id="number"))
    mappings = {
        name: {"collection": collection, "fields": {"id": path}}
        for name, collection, path in (
            *(("user", "users", "_id"), ("name", "users", "_id")),
            *(("room", "rooms", "_id"), ("code", "messages", "code")),
        )
    }
    lines = checker.lines(0, schema, mappings)
    assert not [line for line in lines if "several types" in line or "user" in line and line.startswith("warning")]
    assert len([line for line in lines if re.match(r"warning: table (room|code): its key id .*2\^53", line)]) == 2


def test_computed_mapping_that_mongod_refuses_is_an_error(checker: Checker) -> None:
    mappings = {"user": {"collection": "users", "projection": {"name": {"$toUpper": "$name"}, "id": "$_id"}}}
    schema = {"user": SCHEMA["user"]}
    one(checker.lines(0, schema, mappings), "ok: mappings: mongod evaluates user")
    mappings["user"]["projection"]["name"] = {"$substrBytes": "$name"}
    line = one(checker.lines(1, schema, mappings), "substrBytes")
    assert re.match(r"error: .*mappings\.json:1:\d+: user\.projection\.name: ", line)


def test_unusable_store_and_port_are_errors(checker: Checker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lines = checker.lines(1, server={"port": taken.getsockname()[1]})
        one(lines, "error: port: .*another process uses it")
    one(checker.lines(1, server={"host": "198.51.100.1", "token": "x"}), "error: port: 198.51.100.1:")
    one(checker.lines(1, watermarks={"path": "schema.json/x.db"}), "error: store: .*schema.json is in the way")
    one(checker.lines(1, watermarks={"path": "/"}), "error: store: ")


def test_check_beside_a_running_daemon_reports_ok(serve: Serve) -> None:
    """The port is in use by this zmsd, as before a reload."""
    zmsd = serve(SCHEMA, MAPPINGS)
    done = run_zmsd("check", "--config", str(zmsd.config_file), cwd=zmsd.directory)
    assert done.returncode == 0, done.stdout
    one(done.stdout.splitlines(), "ok: port: .*zmsd serves there now")
    one(done.stdout.splitlines(), r"ok: store: .*/watermarks\.db$")


def test_store_in_use_by_a_daemon_on_another_port_is_reported(tmp_path: Path) -> None:
    checker, file = Checker(tmp_path, "mongodb://127.0.0.1:1/db"), tmp_path / "watermarks.db"
    serving = SqliteStore(file, serves=True)
    warning = one(checker.lines(0, SCHEMA, MAPPINGS, "--offline"), "warning: store: ")
    assert warning.startswith(f"warning: store: {file}: a running zmsd uses it, on another port: stop it first")
    one(checker.lines(0, SCHEMA, MAPPINGS, "--offline", server={"port": 0}), "ok: store: ")
    serving.close()
    one(checker.lines(0, SCHEMA, MAPPINGS, "--offline"), "ok: store: ")


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (Certificate(ONE.cert, TWO.key), "KEY_VALUES_MISMATCH"),
        (Certificate(ONE.cert, LOCKED_KEY), "expected unencrypted PEM"),
        (Certificate("nothing", ONE.key), "cannot load certificate"),
    ],
    ids=["another key", "a key with a password", "no certificate"],
)
def test_unusable_certificate_is_an_error(pair: Certificate, reason: str, tmp_path: Path) -> None:
    checker = Checker(tmp_path, "mongodb://127.0.0.1:1/db")

    def lines(code: int, pair: Certificate) -> list[str]:
        return checker.lines(code, SCHEMA, MAPPINGS, "--offline", server={"tls": pair.write(tmp_path)})

    assert reason in one(lines(1, pair), "error: server.tls: ")
    one(lines(0, ONE), r"ok: server\.tls: .*server\.crt$")


def test_offline_check_contacts_no_mongodb(tmp_path: Path) -> None:
    checker = Checker(tmp_path, "mongodb://u:SECRET@127.0.0.1:1/db?replicaSet=rs0")
    lines = checker.lines(0, SCHEMA, MAPPINGS, "--offline")
    assert not [line for line in lines if re.search("mongodb: |oplog|privileges|SECRET", line)]


def test_unreachable_mongodb_is_an_error_without_secrets(tmp_path: Path) -> None:
    checker = Checker(tmp_path, "mongodb://u:SECRET@127.0.0.1:1/db?serverSelectionTimeoutMS=100")
    lines = checker.lines(1)
    assert "Connection refused" in one(lines, "error: mongodb: ")
    assert "SECRET" not in "\n".join(lines)


def test_configuration_errors_are_reported_before_mongodb(tmp_path: Path) -> None:
    done = Checker(tmp_path, "mongodb://127.0.0.1:1/db").run(server={"port": 99999})
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1


def test_standalone_mongod_is_an_error(tmp_path: Path) -> None:
    mongod = Mongod(tmp_path / "mongod", standalone=True)
    try:
        mongod.start()
        lines = Checker(tmp_path, f"mongodb://{mongod.address}/db").lines(1)
        assert "rs.initiate()" in one(lines, "error: mongodb: ")
    finally:
        mongod.kill()


def test_columns_without_values_are_reported(database: Db, checker: Checker) -> None:
    """A misspelt name, a type that does not match; optional columns may be empty."""
    database.messages.insert_many(
        [
            *({"_id": str(n), "kind": "user", "room": "r", "text": "t", "likes": n if n else "none"} for n in range(5)),
            {"_id": "s", "kind": "system", "room": {"id": "r"}, "evnt": "e"},
        ]
    )
    schema = copy.deepcopy(SCHEMA)
    for name in ("userMessage", "systemMessage"):
        for column in schema[name]["columns"].values():
            column["optional"] = False
    lines = checker.lines(0, schema)
    assert sorted(line for line in lines if line.startswith("warning: ")) == [
        "warning: table systemMessage: column event: none of 1 documents has a field event: check the name",
        "warning: table systemMessage: column roomId: values that do not fit type string are sent as null: "
        "1 object in 1 documents",
        "warning: table userMessage: column likes: values that do not fit type number are sent as null: "
        "1 string in 5 documents",
    ]
    assert not [line for line in checker.lines(0) if "check the name" in line]


def test_computed_columns_without_values_are_reported(database: Db, checker: Checker) -> None:
    database.users.insert_many([{"_id": str(n), "lines": [{"name": "x"}, {"name": "y"}]} for n in range(5)])
    schema = named(user={"columns": {name: {"type": "string"} for name in ("id", "name")}, "primaryKey": ["id"]})

    def warnings(code: int = 0, **mapping: Any) -> list[str]:
        lines = checker.lines(code, schema, {"user": {"source": "users", **mapping}})
        return [line for line in lines if re.search("^(warning|error): table", line)]

    missing = "warning: table user: column {0}: none of {1} documents has a field {0}: check the name"
    assert warnings(projection={"id": "$_id", "name": {"$first": "$lines.name"}}) == []
    unwind = {"$unwind": "$lines"}
    (error,) = warnings(1, pipeline=[unwind, {"$project": {"key": "$_id", "name": "$lines.name"}}])
    assert re.match("error: table user: column id: none of 10 documents .* no row can be sent", error)
    assert warnings(filter={"lines": {"$size": 2}}, fields={"id": "_id"}) == [missing.format("name", 5)]
    fails = {"$toInt": {"$first": "$lines.name"}}
    assert warnings(projection={"id": "$_id", "name": fails}) == [], "a failing stage is reported elsewhere"


def test_store_of_another_database_is_an_error(database: Db, checker: Checker) -> None:
    file = checker.directory / "watermarks.db"
    store = SqliteStore(file)
    store.save_identity(Identity("set", {}, "other"))
    error = one(checker.lines(1), "error: store: ")
    assert f"belongs to database other, not {database.name}" in error
    store.save_identity(Identity("set", {}, database.name))
    store.close()
    one(checker.lines(0), "ok: store: ")
    file.write_bytes(b"no database at all " * 100)
    assert "move the file away" in one(checker.lines(1), "error: store: ")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path_factory.mktemp("secured"), auth=True) as replica_set:
        yield replica_set


def test_missing_privileges_are_reported_with_the_command_to_grant(secured: ReplicaSet, tmp_path: Path) -> None:
    with secured.client() as client:
        for name in COLLECTIONS:
            client["chat"].create_collection(name)
        client.admin.command("createUser", "reader", pwd="p", roles=[{"role": "read", "db": "chat"}])
        client.admin.command("createUser", "nobody", pwd="p", roles=[{"role": "read", "db": "other"}])
        actions = [{"resource": {"db": "chat", "collection": "users"}, "actions": ["collMod"]}]
        client.admin.command("createRole", "images", privileges=actions, roles=[])
        roles = [{"role": "read", "db": "chat"}, {"role": "read", "db": "local"}, "images"]
        client.admin.command("createUser", "most", pwd="p", roles=roles)

    def lines(user: tuple[str, str], code: int, **settings: Any) -> list[str]:
        return Checker(tmp_path, secured.uri("chat", user)).lines(code, **settings)

    found = lines(("reader", "p"), 0)
    one(found, "ok: privileges: reader@admin may find and changeStream on chat")
    one(found, "warning: oplog: the user may not read it: grant the role read")
    assert 'db.runCommand({collMod: "users"' in one(found, "warning: collection users: .*may not switch them on")
    one(lines(("reader", "p"), 1, feed={"images": "required"}), "error: collection users: .*feed.images is required")

    found = lines(("most", "p"), 0)
    one(found, "ok: oplog: ")
    one(found, "ok: collection users: .*will be switched on")
    one(found, "warning: collection rooms: .*may not switch them on")

    found = lines(("nobody", "p"), 1)
    error = one(found, "error: privileges: nobody@admin lacks find, changeStream, listCollections on chat")
    assert not [line for line in found if line.startswith("error: collections")], "it was said"
    assert 'grantRolesToUser("nobody", [{role: "read", db: "chat"}])' in error

    wrong = one(lines(("reader", "SECRET"), 1), "error: mongodb: Authentication failed")
    assert "check user, password and authSource (mongodb.uri)" in wrong
    assert "SECRET" not in wrong
    found = Checker(tmp_path, secured.uri("chat")).lines(1)
    assert "give a user: mongodb://USER:PASSWORD@HOST/" in one(found, "error: collections: ")

    assert not [line for line in lines(ADMIN, 0) if line.startswith("warning: ")]


def test_check_prints_as_much_as_is_asked_for(database: Db, checker: Checker) -> None:
    database.drop_collection("rooms")
    assert checker.run().returncode == 0
    config = ("check", "--config", "zmsd.yaml")
    plain = run_zmsd(*config, cwd=checker.directory).stdout.splitlines()
    for name in SCHEMA:
        one(plain, rf"^ok: table {name} from ")
    assert not [line for line in plain if line.startswith("ok: collection ")]
    assert plain[-1] == "no errors, 1 warning"
    strict = run_zmsd(*config, "--quiet", "--strict", "--color", "always", cwd=checker.directory)
    assert strict.returncode == 1
    assert strict.stdout.splitlines()[0].startswith("\x1b[33mwarning\x1b[0m: collection rooms: does not exist")
    assert "ok" not in strict.stdout.split()
    found = json.loads(run_zmsd(*config, "--json", cwd=checker.directory).stdout)
    assert (found["errors"], found["warnings"]) == (0, 1)
    assert [one["text"] for one in found["findings"] if one["level"] == "warning"][0].startswith("collection rooms")


def test_table_of_many_columns_is_cut_for_people(tmp_path: Path) -> None:
    columns = {"id": {"type": "string"}} | {f"c{n}": {"type": "number"} for n in range(300)}
    wide = {"wide": {"tableName": "wide", "columns": columns, "primaryKey": ["id"]}}
    (tmp_path / "schema.json").write_text(json.dumps(wide))
    (tmp_path / "zmsd.yaml").write_text("mongodb: {uri: mongodb://127.0.0.1:1/x}\nschema: {file: schema.json}\n")
    config = ("check", "--offline", "--config", "zmsd.yaml")
    line = one(run_zmsd(*config, cwd=tmp_path).stdout.splitlines(), "^ok: table wide ")
    assert line.endswith("c9 number, c10 number, and 289 more columns (--verbose)")
    assert "c299 number" in run_zmsd(*config, "--verbose", cwd=tmp_path).stdout
    assert "c299 number" in run_zmsd(*config, "--json", cwd=tmp_path).stdout


def test_check_has_configuration_errors_in_its_json(checker: Checker) -> None:
    assert checker.run({}, None).returncode == 78
    done = run_zmsd("check", "--config", "zmsd.yaml", "--json", cwd=checker.directory)
    assert (done.returncode, done.stderr) == (78, "")
    assert [one["text"] for one in json.loads(done.stdout)["findings"]] == ["schema.json:1:1: names no table"]
