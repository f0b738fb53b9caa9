"""OrderReader: one stream over the whole database that carries only which collection's turn it is.

It is why N collection streams give one total order without waiting for the idle ones, and what tells the end of a
transaction: on a replica set a batch below its batchSize ended because nothing more was visible, and a transaction
becomes visible as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Event

from zmsd.bson_types import Document
from zmsd.mongodb.change_cursor import ChangeCursor
from zmsd.mongodb.reader import Health, Reader
from zmsd.mongodb.source import Source


def events_of(collections: Iterable[str]) -> Document:
    """The $match for events of these collections; on ``ns.coll``, because matching ``ns`` scans ten times more."""
    names = sorted(collections)
    return {
        "$match": {
            "$or": [
                {"ns.coll": {"$in": names}},
                {"to.coll": {"$in": names}},
                {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
            ]
        }
    }


class OrderReader(Reader):
    def __init__(self, source: Source, collections: Iterable[str], after: int, stop: Event, health: Health) -> None:
        stages = [events_of(collections), {"$project": {"ns.coll": 1, "to.coll": 1, "operationType": 1}}]
        super().__init__("order", ChangeCursor(source, None, after, stages), stop, health)
