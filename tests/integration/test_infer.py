"""``zmsd infer``: its output can be checked, run and followed without an edit."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.support.daemon import run_zmsd
from tests.support.documents import broken
from tests.support.mongod import Client, ReplicaSet
from tests.support.ports import free_port
from tests.support.types import Db, Follow, Serve


def fill(database: Db) -> None:
    database.users.insert_many(
        [
            {"_id": ObjectId(), "name": f"n{n}", "born": datetime(2000, 1, 1), "address": {"city": "x", "zip": n}}
            for n in range(30)
        ]
    )
    kinds: list[dict[str, Any]] = [
        {"t": "user", "author": {"id": "x"}, "edited": False},
        {"t": "image", "url": "u", "tags": ["a"]},
    ]
    database.messages.insert_many([{"_id": n, "room": "r", **kinds[n % 2]} for n in range(40)])
    database["shop.orders"].insert_many([{"_id": {"shop": "a", "n": n}, "total": n} for n in range(5)])
    database.odd.insert_many([{"_id": "a"}, {"_id": {"x": 1}}])
    database.create_collection("empty")
    database.command({"create": "seen", "viewOn": "users", "pipeline": []})
    database.create_collection("measures", timeseries={"timeField": "at"})


def infer(database: Db, replica_set: ReplicaSet, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``zmsd infer`` with the URI in the environment."""
    return run_zmsd("infer", *arguments, cwd=cwd, environment={"MONGODB_URI": replica_set.uri(database.name)})


def test_inferred_documents_pass_check_and_serve(
    database: Db,
    replica_set: ReplicaSet,
    tmp_path: Path,
    serve: Serve,
    follow: Follow,
) -> None:
    fill(database)
    done = infer(database, replica_set, tmp_path, "--out", "made")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "seen: left out: is a view" in done.stdout
    assert "measures: left out: is a timeseries" in done.stdout
    assert "empty: left out: is empty" in done.stdout
    assert "odd: left out: " in done.stdout
    assert "messages: 2 tables by t" in done.stdout

    schema = json.loads((tmp_path / "made/schema.json").read_text())["tables"]
    mappings = json.loads((tmp_path / "made/mappings.json").read_text())
    assert schema["users"]["columns"]["addressCity"] == {"type": "string"}
    assert schema["users"]["columns"]["born"] == {"type": "number"}
    assert mappings["messagesUser"]["filter"] == {"t": "user"}
    assert schema["shopOrders"]["primaryKey"] == ["idShop", "idN"]

    zmsd = serve(schema, mappings)
    client = follow(zmsd)
    assert {name: len(client.rows(name)) for name in schema} == {
        "users": 30,
        "messagesUser": 20,
        "messagesImage": 20,
        "shopOrders": 5,
    }
    assert client.rows("messagesImage")[(1,)] == {"id": 1, "room": "r", "t": "image", "url": "u", "tags": ["a"]}
    database["shop.orders"].insert_one({"_id": {"shop": "b", "n": 1}, "total": 7})
    client.wait_rows("shopOrders", 6)
    assert not zmsd.log("WARNING|ERROR"), "nothing is rejected, nothing is odd"

    environment = {
        "PORT": str(free_port()),
    }
    checked = run_zmsd("check", "--config", "made/zmsd.yaml", cwd=tmp_path, environment=environment)
    assert checked.returncode == 0, checked.stdout
    assert "warning" not in checked.stdout


def test_existing_files_are_kept_without_force(database: Db, replica_set: ReplicaSet, tmp_path: Path) -> None:
    database.users.insert_one({"_id": "ann"})
    (tmp_path / "mappings.json").write_text("mine")
    done = infer(database, replica_set, tmp_path)
    assert done.returncode == 1
    assert "mappings.json" in done.stderr
    assert "--force" in done.stderr
    assert (tmp_path / "mappings.json").read_text() == "mine"
    assert not (tmp_path / "schema.json").exists()
    assert infer(database, replica_set, tmp_path, "--force").returncode == 0
    assert json.loads((tmp_path / "mappings.json").read_text())["users"]["collection"] == "users"


def test_sample_size_limits_the_documents_read(database: Db, replica_set: ReplicaSet, tmp_path: Path) -> None:
    database.users.insert_many([{"_id": n, "name": "x"} for n in range(3000)])
    for size in (50, 2000, 3000):  # one batch of a reply, several, all
        done = infer(database, replica_set, tmp_path, "--sample", f"{size}", "--force")
        assert f"2 columns, {size} documents seen" in done.stdout, done.stderr


def test_sample_that_mongod_cannot_sort_is_taken_from_the_first_documents(
    database: Db, mongo: Client, replica_set: ReplicaSet, tmp_path: Path
) -> None:
    """MongoDB 5.0 sorts up to 100 MB for a random sample; newer versions write to disk, unless that is switched off."""
    database.files.insert_many([{"_id": n, "name": "x", "data": b"x" * 10_000} for n in range(1200)])
    limits = {"internalQueryMaxBlockingSortMemoryUsageBytes": 1 << 20}
    if mongo.server_info()["versionArray"][0] > 5:
        limits["allowDiskUseByDefault"] = False
    before = mongo.admin.command({"getParameter": 1, **dict.fromkeys(limits, 1)})
    mongo.admin.command({"setParameter": 1, **limits})
    try:
        done = infer(database, replica_set, tmp_path)
        checked = run_zmsd("check", "--config", "zmsd.yaml", cwd=tmp_path, environment={"PORT": str(free_port())})
    finally:
        mongo.admin.command({"setParameter": 1, **{name: before[name] for name in limits}})
    assert "files: table files, 3 columns, 1000 documents seen" in done.stdout, done.stderr
    assert checked.returncode == 0, checked.stdout
    assert "code 292" not in checked.stdout


def test_unusual_field_names_are_kept(database: Db, replica_set: ReplicaSet, tmp_path: Path) -> None:
    names = ["temp [ C ]", "{ a }", "x]", "[y", "}", 'quo"te', "back\\slash", "a  b"]
    database.things.insert_one({"_id": 1, **dict.fromkeys(names, "v")})
    assert infer(database, replica_set, tmp_path).returncode == 0
    mappings = json.loads((tmp_path / "mappings.json").read_text())
    assert list(mappings["things"]["fields"].values()) == ["_id", *names]


def test_document_of_invalid_bson_is_an_error(database: Db, replica_set: ReplicaSet, tmp_path: Path) -> None:
    database.things.insert_one(broken("x"))
    done = infer(database, replica_set, tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "collection things has a document with bytes that are not valid BSON" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--uri", "mongodb://127.0.0.1:1/"], "names no database"),
        (["--uri", "mongodb://u:SEC/RET@127.0.0.1:1/db"], "percent-encoded"),
        (["--uri", "mongodb://u:SECRET@127.0.0.1:1/db?serverSelectionTimeoutMS=100"], "Connection refused"),
        (
            ["--uri", "mongodb://127.0.0.1:1/", "--database", "a b"],
            "--database: not a name that MongoDB takes",
        ),
        (["--uri", "mongodb://127.0.0.1:1/admin"], "--uri: admin is MongoDB's own database"),
    ],
)
def test_infer_error_is_one_line_without_secrets(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = run_zmsd("infer", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr
    assert "SEC" not in done.stderr


def test_database_without_documents_is_an_error(database: Db, replica_set: ReplicaSet, tmp_path: Path) -> None:
    done = infer(database, replica_set, tmp_path)
    assert done.returncode == 1
    assert "has no documents" in done.stderr
    assert not (tmp_path / "schema.json").exists()
