"""A zero-cache with a replica of another change source is pointed at zmsd, as docs/moving.rst describes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from tests.e2e.conftest import Zero, wait_same
from tests.support.stub import Message, StubSource, create_table, frames, relation, required_tables, transaction
from tests.support.types import Db, Serve

COLUMNS = {"id": "string", "text": "string"}
SCHEMA = {"note": {"tableName": "note", "columns": {c: {"type": t} for c, t in COLUMNS.items()}, "primaryKey": ["id"]}}
MAPPINGS = {"note": {"collection": "notes", "fields": {"id": "_id", "text": "text"}}}


def insert(row: dict[str, str]) -> Message:
    return ["data", {"tag": "insert", "relation": relation("note", ["id"]), "new": row}]


def test_replica_of_another_source_begins_again_by_itself(
    database: Db, serve: Serve, zero: Callable[..., Zero]
) -> None:
    """zero-sources counts its watermarks: 00 is the initial sync, 01 the first change."""
    first, second = {"id": "a", "text": "there"}, {"id": "b", "text": "streamed"}
    initial = [*required_tables(), *create_table("note", COLUMNS, ["id"]), insert(first)]
    with StubSource(frames(transaction(0, initial))) as other:
        # ZeroCache needs a process's port; zero-cache exits to sync again, and systemd restarts it.
        app = zero(cast(Any, other), SCHEMA, restart=True, one_process=False)
        client = app.client()
        other.push(frames(transaction(1, [insert(second)])))
        client.wait_rows("note", [first, second], 60)
        other.wait_ack(1)
        app.cache.kill()

    database.notes.insert_many([{"_id": "b", "text": "of MongoDB"}, {"_id": "c", "text": "new"}])
    process = serve(SCHEMA, MAPPINGS)
    app.cache.move_to(f"ws://127.0.0.1:{process.port}/changes/v0/stream")
    app.cache.start()
    wait_same(client, database, SCHEMA, MAPPINGS)
    (refusal,) = process.log("position lost, reset required")
    assert "sent=01" in refusal, refusal
    assert not process.log("initial sync finished")[1:], "one initial sync, which is what the move costs"

    database.notes.delete_one({"_id": "b"})
    wait_same(client, database, SCHEMA, MAPPINGS)
    assert json.loads(process.get("/metadata/status")[1])["status"] == "healthy"
