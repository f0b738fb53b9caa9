"""zmsd serves the example of the document that the project was made from."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from bson import ObjectId

from tests.support.client import ChangeSourceClient
from tests.support.mongod import ReplicaSet
from tests.support.seed import MAPPINGS, SCHEMA
from tests.support.types import Db, Follow, Serve


def a_message(content: str) -> dict[str, Any]:
    return {"content": content, "author": {"id": "u1"}, "timestamp": datetime(2024, 5, 6, 7, 8, 9, 123000)}


def row(key: ObjectId, content: str) -> dict[str, Any]:
    return {"id": str(key), "content": content, "createdAt": 1714979289123}


def assert_served(database: Db, client: ChangeSourceClient, old: ObjectId) -> None:
    """One message exists, and one is written."""
    assert client.rows("message") == {(str(old),): row(old, "old")}
    new = database.messages.insert_one(a_message("new")).inserted_id
    assert client.wait_rows("message", 2)[str(new),] == row(new, "new")


def test_seed_example_from_files_is_served(
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    old = database.messages.insert_one(a_message("old")).inserted_id
    zmsd = serve(json.loads(SCHEMA), json.loads(MAPPINGS), start=False)
    (zmsd.directory / "schema.json").write_text(SCHEMA)
    (zmsd.directory / "mappings.json").write_text(MAPPINGS)
    zmsd.start()
    assert_served(database, follow(zmsd), old)
    (warning,) = zmsd.log("userId")
    assert "mappings.json" in warning, "a mapped field without a column is a warning that says where"


def test_seed_example_from_the_environment_is_served(
    database: Db,
    replica_set: ReplicaSet,
    tmp_path: Path,
    serve: Serve,
    follow: Follow,
) -> None:
    old = database.messages.insert_one(a_message("old")).inserted_id
    (tmp_path / "zrocket-schema.json").write_text(SCHEMA)
    (tmp_path / "zrocket-table-mappings.json").write_text(MAPPINGS)
    environment = {
        "MONGODB_URI": replica_set.uri(database.name),
        "SCHEMA_FILE": str(tmp_path / "zrocket-schema.json"),
        "TABLE_MAPPINGS_FILE": str(tmp_path / "zrocket-table-mappings.json"),
        "WATERMARK_STORAGE": "zqlite",
        "WATERMARK_DB_PATH": str(tmp_path / "positions.db"),
    }
    zmsd = serve({}, environment=environment, arguments=["run"], start=False)
    environment["PORT"] = str(zmsd.port)
    zmsd.environment.update(environment)
    zmsd.start()
    assert_served(database, follow(zmsd), old)
    assert (tmp_path / "positions.db").exists()
