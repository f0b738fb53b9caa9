"""Sources that are prepared to be read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.support.mongod import ReplicaSet
from tests.support.types import Db
from zmsd.mongodb.content_reader import Watched
from zmsd.mongodb.source import Source


@contextmanager
def prepared(replica_set: ReplicaSet, database: Db, watched: Mapping[str, Watched]) -> Iterator[Source]:
    """Create the collections, prepare a source for them, and close it."""
    for name in watched:
        database.create_collection(name)
    source = Source(replica_set.uri(database.name), database.name)
    source.prepare(watched, "auto")
    yield source
    source.close()
