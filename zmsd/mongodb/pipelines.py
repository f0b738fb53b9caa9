"""The stages that follow ``$changeStream``: which events a stream has, and what each event holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from zmsd.bson_types import Document
from zmsd.mongodb.events import AFTER, BEFORE, OF_DOCUMENTS, WITH_AFTER, WITH_BEFORE

Fields = frozenset[str] | None
"""Top-level fields of the documents that the tables use; None for all."""

_ENVELOPE = ("operationType", "ns.coll", "to.coll", "documentKey", "txnNumber", "wallTime")
"""Fields that every event needs, besides its images."""

ENVELOPE_ONLY: Document = {"$project": dict.fromkeys(_ENVELOPE, 1)}
"""Remove the images from the events."""
ORDER_ONLY: Document = {"$project": {"ns.coll": 1, "to.coll": 1, "operationType": 1}}
"""Leave of each event what tells the order of the collections."""


def match_collections(collections: Iterable[str]) -> Document:
    """Return the $match for the events of collections, and for the events that end the stream.

    It compares ``ns.coll``, because a match on ``ns`` cannot use the fields of the oplog entry and scans ten times more
    entries (``python -m bench``).
    """
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


def match_name(collection: str) -> Document:
    """Return the $match by which the stream of a database carries the events of a collection's own stream."""
    return {"$match": {"$or": [{"ns.coll": collection}, {"to.coll": collection}, {"operationType": "invalidate"}]}}


def match_filters(filters: Mapping[str, Sequence[Document]]) -> list[Document]:
    """Return a $match that removes changes of documents that had no rows before and have none after, or no stage.

    An event that lacks an image stays, because its missing image may pass a filter. Where few updates of a collection
    matter, zmsd needs a fraction of the processor time (``python -m bench``).

    :param filters: collection -> the plain filters of its tables; collections without a filter are left out
    """
    if not filters:
        return []
    images = {AFTER: WITH_AFTER, BEFORE: WITH_BEFORE}
    stay: list[Document] = [{"operationType": {"$nin": sorted(OF_DOCUMENTS)}}, {"ns.coll": {"$nin": sorted(filters)}}]
    stay += [{"operationType": {"$in": list(kinds)}, image: None} for image, kinds in images.items()]
    stay += [
        {"ns.coll": name, **{f"{image}.{path}": condition for path, condition in one.items()}}
        for name, each in filters.items()
        for one in each
        for image in images
    ]
    return [{"$match": {"$or": stay}}]


def project_fields(fields: Fields) -> Document:
    """Return the $project that leaves of an event what rows are made of, and never updateDescription."""
    if fields is None:
        return {"$project": {"updateDescription": 0}}
    images = [f"{image}.{name}" for image in (AFTER, BEFORE) for name in sorted(fields)]
    return {"$project": dict.fromkeys((*_ENVELOPE, *images), 1)}
