"""Look up the documents of events that came without images.

The document after a change is read at the event's own cluster time, and the document before it at the cluster time
before. That is as exact as an image, also within a transaction, while the server keeps that history: 300 s by default
(https://www.mongodb.com/docs/manual/reference/parameters/#mongodb-parameter-param.minSnapshotHistoryWindowInSeconds).
``updateLookup`` would return the document as it is now. After the history is gone this module does the same, and the
document before stays unknown.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import bson
from bson.errors import InvalidBSON
from pymongo.errors import PyMongoError

from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import SourceUnavailable
from zmsd.mongodb import raw_batch, resume_token
from zmsd.mongodb.errors import SNAPSHOT_GONE, SNAPSHOT_RETRY, classify, code_of, undecodable
from zmsd.mongodb.events import WITH_AFTER, ChangeEvent
from zmsd.mongodb.source import Source

Found = dict[bytes, Document]
Left = dict[tuple[str, bytes], Document | None]
"""(cluster time in hexadecimal, ``_id`` as BSON) -> the document after the newest event."""


class Lookup:
    """Looks up documents of one collection. For one thread."""

    def __init__(
        self, source: Source, collection: str, fields: frozenset[str] | None, *, evaluated: bool = False
    ) -> None:
        """:param evaluated: mongod evaluates the documents: they keep their exact BSON"""
        self._source = source
        self._collection = collection
        self._evaluated = evaluated
        self._select = None if fields is None else dict.fromkeys(fields | {"_id"}, 1)
        self._left: Left = {}
        """Documents as left by earlier batches of the transaction that may still be open."""
        self._newly_left: Left = {}

    def complete(self, events: list[ChangeEvent], *, before: bool) -> None:
        """Set the missing documents of events in place.

        A change whose document does not exist any more becomes a delete, because the event that deleted the document
        may only have a document that never had a row.

        :param before: set the document before the change as well, or None if there was no document
        """
        lacking = [event for event in events if event.kind in WITH_AFTER and event.after is None]
        for event, document in self._each(lacking, lambda at: at, fallback=True):
            event.after = document
            if document is None:
                event.kind = "delete"
        if before:
            self._take_over(events)
            unknown = [event for event in events if not event.before_known]
            for event, document in self._each(unknown, lambda at: at - 1, fallback=False):
                event.before, event.before_known = document, True

    def settle(self) -> None:
        """Confirm that the events of the last ``complete`` will not be passed again."""
        newest = next(reversed(self._newly_left), ("0", b""))[0]
        # With images the documents are not needed, and a transaction may be large.
        kept = {} if self._source.has_images_at(self._collection, int(newest, 16)) else self._newly_left
        if any(time != newest for time, _ in itertools.islice(self._left, 1)):
            self._left = {}
        self._left |= {key: document for key, document in kept.items() if key[0] == newest}
        self._newly_left = {}

    def _take_over(self, events: list[ChangeEvent]) -> None:
        """Set the document before, within a transaction, to what the previous event of the document left.

        Reading at the cluster time before would return the document as it was before the transaction.
        """
        left: Left = {}
        for event in events:
            key = (resume_token.time_text(event.token), _hashable(event.document_id))
            known = left if key in left else self._left
            if key in known and not event.before_known:
                event.before, event.before_known = known[key], True
            left[key] = event.after
        self._newly_left = left

    def _each(
        self, events: list[ChangeEvent], time: Callable[[int], int], *, fallback: bool
    ) -> list[tuple[ChangeEvent, Document | None]]:
        """Return (event, document) for each document that could be read.

        One query reads the documents of one cluster time, and one query the rest.

        :param time: the event's position -> the position at which to read
        :param fallback: whether to read documents as they are now after the history is gone
        """
        done: list[tuple[ChangeEvent, Document | None]] = []
        rest = events
        for at, group in itertools.groupby(events, key=lambda event: resume_token.position_of(event.token)):
            together = list(group)
            found = self._read(together, {"level": "snapshot", "atClusterTime": position.to_timestamp(time(at))})
            if found is None:  # later events cannot be read either, until the feed has caught up
                break
            done += _matched(together, found)
            rest = rest[len(together) :]
        if rest and fallback:
            # Not older than the events: a secondary may lag behind them.
            newest = resume_token.position_of(rest[-1].token)
            found = self._read(rest, {"level": "majority", "afterClusterTime": position.to_timestamp(newest)})
            if found is None:
                raise SourceUnavailable(f"collection {self._collection}: documents cannot be read at the moment")
            done += _matched(rest, found)
        return done

    def _read(self, events: list[ChangeEvent], concern: Document) -> Found | None:
        """Return the events' documents by ``_id``, or None if the server does not keep that history any more."""
        ids = [event.document_id for event in events]
        command: Document = {"find": self._collection, "filter": {"_id": {"$in": ids}}, "readConcern": concern}
        if self._select is not None:
            command["projection"] = self._select
        for preference in self._source.preferences:
            try:
                if self._evaluated:
                    raws = self._source.find(command, preference, raw_batch.RAW)
                    documents = [raw_batch.exact(raw) for raw in raws]
                else:
                    documents = self._source.find(command, preference)
                return {_hashable(document["_id"]): document for document in documents}
            except PyMongoError as error:
                if code_of(error) not in SNAPSHOT_GONE | SNAPSHOT_RETRY:
                    raise classify(error) from error
            except (InvalidBSON, MemoryError) as error:
                raise undecodable(self._collection, error) from error
        return None


def _matched(events: list[ChangeEvent], found: Found) -> list[tuple[ChangeEvent, Document | None]]:
    return [(event, found.get(_hashable(event.document_id))) for event in events]


def _hashable(key: Any) -> bytes:
    return bson.encode({"": key})
