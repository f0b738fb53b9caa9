"""A small chat that the tests publish: one polymorphic collection that becomes three tables, and two plain ones."""

from __future__ import annotations

from typing import Any

from tests.support.types import Db


def table(**columns: str) -> dict[str, Any]:
    """A table spec in the plain form with the key ``id``; every other column may be null."""
    return {
        "columns": {name: {"type": kind, "optional": name != "id"} for name, kind in columns.items()},
        "primaryKey": ["id"],
    }


def named(**tables: dict[str, Any]) -> dict[str, Any]:
    return {name: {"tableName": name, **spec} for name, spec in tables.items()}


SCHEMA = named(
    user=table(id="string", name="string", city="string"),
    room=table(id="string", title="string", count="number"),
    userMessage=table(id="string", roomId="string", text="string", likes="number"),
    systemMessage=table(id="string", roomId="string", event="string"),
    imageMessage=table(id="string", roomId="string", url="string", size="json"),
)

MAPPINGS: dict[str, Any] = {
    "user": {"collection": "users", "fields": {"id": "_id", "name": "name", "city": "address.city"}},
    "room": {"collection": "rooms", "fields": {"id": "_id", "title": "title", "count": "count"}},
    "userMessage": {
        "collection": "messages",
        "filter": {"kind": "user"},
        "fields": {"id": "_id", "roomId": "room", "text": "text", "likes": "likes"},
    },
    "systemMessage": {
        "collection": "messages",
        "filter": {"kind": "system"},
        "fields": {"id": "_id", "roomId": "room", "event": "event"},
    },
    "imageMessage": {
        "collection": "messages",
        "filter": {"kind": "image"},
        "fields": {"id": "_id", "roomId": "room", "url": "image.url", "size": "image.size"},
    },
}

COLLECTIONS = ("users", "rooms", "messages")


def create_collections(database: Db) -> None:
    """Create the published collections, so that none is reported as missing."""
    for name in COLLECTIONS:
        database.create_collection(name)
