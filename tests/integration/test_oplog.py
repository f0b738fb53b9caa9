"""Checks of positions against the oplog of a real mongod."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.mongod import Client
from tests.support.types import Db
from zmsd.bson_types import Document
from zmsd.mongodb import oplog, resume_token
from zmsd.mongodb.source import Source

FOREIGN = 20_000
"""Writes of another database after the event."""
FEW = 2_000
"""Documents that mongod may look at to find it: other parts of mongod, and other tests, look at some meanwhile."""


@pytest.fixture
def source(database: Db, replica_set: Any) -> Iterator[Source]:
    source = Source(replica_set.uri(database.name), database.name)
    source.prepare([], "auto")
    yield source
    source.close()


def events(database: Db, write: Callable[[], object]) -> list[Document]:
    """Return the events of ``write``."""
    with database.watch() as stream:
        write()
        database.last.insert_one({})
        found: list[Document] = []
        while not found or found[-1]["ns"]["coll"] != "last":
            found.append(dict(next(stream)))
    return found[:-1]


def insert(database: Db) -> None:
    database.a.insert_one({})


def transaction(database: Db) -> None:
    database.create_collection("a")
    with database.client.start_session() as session, session.start_transaction():
        database.a.insert_many([{} for _ in range(50)], session=session)


def scanned(mongo: Client) -> int:
    return int(mongo.admin.command("serverStatus")["metrics"]["queryExecutor"]["scannedObjects"])


def unreadable(source: Source) -> None:
    """As behind mongos, ``local.oplog.rs`` is not read."""
    source.deployment = dataclasses.replace(source.deployment, sharded=True)


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("write", [insert, transaction])
def test_event_is_found_without_scanning_what_follows(
    write: Callable[[Db], None], readable: bool, database: Db, mongo: Client, source: Source
) -> None:
    if not readable:
        unreadable(source)
    event = events(database, lambda: write(database))[-1]
    database.drop_collection("last")
    other = mongo[f"{database.name}_other"]
    for _ in range(FOREIGN // 1000):
        other.a.insert_many([{} for _ in range(1000)], ordered=False)
    before = scanned(mongo)
    assert oplog.has_event(source, resume_token.to_text(event["_id"]))
    assert scanned(mongo) - before < FEW
    mongo.drop_database(other)


@pytest.mark.parametrize("readable", [True, False])
def test_event_of_another_lineage_is_not_found(readable: bool, database: Db, source: Source) -> None:
    """The oplog has an entry at the event's time, but for a different document."""
    if not readable:
        unreadable(source)
    one, two = events(database, lambda: [database.a.insert_one({"_id": number}) for number in (1, 2)])
    data, at_two = one["_id"]["_data"], two["_id"]["_data"][2:18]
    assert oplog.has_event(source, data)
    assert not oplog.has_event(source, data[:2] + at_two + data[18:])
    # A second before, the oplog has no entry either.
    nothing = ((int(at_two, 16) >> 32) - 1) << 32 | 0xFFFF
    assert not oplog.has_event(source, f"82{nothing:016X}{data[18:]}")
