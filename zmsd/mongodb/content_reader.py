"""Readers of events with their documents: CollectionReader for one collection, DatabaseReader for the database.

They return complete events; ``zmsd/mongodb/events.py`` has the contract.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from threading import Event
from typing import NamedTuple

from bson import DBRef

from zmsd.bson_types import Document
from zmsd.errors import EventUnreadable, NotWatchable, OptionRefused
from zmsd.log import kv
from zmsd.mongodb.change_cursor import BATCH, Batch, ChangeCursor
from zmsd.mongodb.events import AFTER, BEFORE, OF_DOCUMENTS, ChangeEvent
from zmsd.mongodb.lookup import Lookup
from zmsd.mongodb.pipelines import Fields, match_collections, match_filters, match_name, project_fields
from zmsd.mongodb.reader import Health, Reader
from zmsd.mongodb.source import Source
from zmsd.rows.computed import Evaluator

log = logging.getLogger(__name__)


class Watched(NamedTuple):
    """What is read of a collection."""

    fields: Fields
    evaluator: Evaluator | None = None
    """Evaluates the computed tables of the collection; None without such tables."""
    needs_before: bool = False
    """Whether a change needs the document before: the key of some table does not follow from ``_id``."""
    filters: Sequence[Document] = ()
    """Plain filters: a document that passes none of them has no rows. Empty if any document may have rows."""

    @property
    def evaluated(self) -> bool:
        """Whether mongod evaluates the documents: ``evaluated`` of Scan, ChangeCursor and Lookup."""
        return self.evaluator is not None


_LOOKED_UP = 100
"""Events in a batch if the documents of all updates are looked up, because these are not limited by a reply's 16 MB."""


def _batch_size(source: Source) -> int:
    return BATCH if source.wants_images else _LOOKED_UP


def _options(source: Source) -> Document:
    """Return the options of ``$changeStream``.

    They request images even before images are switched on, because that may happen before the next event.
    """
    return dict.fromkeys((AFTER, BEFORE), "whenAvailable") if source.wants_images else {}


class ContentReader(Reader):
    """Reads events with their documents, and looks up the documents of updates that came without one."""

    def __init__(
        self,
        source: Source,
        name: str,
        cursor: ChangeCursor,
        watched: Mapping[str, Watched],
        stop: Event,
        health: Health,
    ) -> None:
        super().__init__(name, cursor, stop, health)
        self._source = source
        self._watched = watched
        self._lookups = {
            name: Lookup(source, name, wanted.fields, evaluated=wanted.evaluated) for name, wanted in watched.items()
        }

    def _read(self, wait_ms: int) -> Batch:
        """Read a batch. If an event cannot be read, read it without its documents, which ``fill`` looks up."""
        try:
            return super()._read(wait_ms)
        except OptionRefused as error:
            if self._source.look().stores_images:
                raise
            raise OptionRefused("the deployment takes other options now: the change streams are reopened") from error
        except EventUnreadable as error:
            log.info(kv("looking up documents of unreadable events", stream=self.name, error=error))
            return self._cursor.read_without_documents()

    def fill(self, events: list[ChangeEvent]) -> None:
        by_collection: dict[str, list[ChangeEvent]] = {}
        for event in events:
            if event.kind in OF_DOCUMENTS and event.collection is not None:
                by_collection.setdefault(event.collection, []).append(event)
            else:
                # The collection that has the name next has its own setting for images.
                self._source.forget_images(event.collection, event.target)
        for collection, group in by_collection.items():
            for event in group:
                if isinstance(event.after, DBRef):  # see unwrap_dbrefs
                    event.after = event.after.as_doc()
                if isinstance(event.before, DBRef):
                    event.before = event.before.as_doc()
            self._source.ensure_images(collection)
            wanted = self._watched[collection]
            self._lookups[collection].complete(group, before=wanted.needs_before)
            if wanted.evaluator is not None:
                _evaluate(wanted.evaluator, group)
        for collection in by_collection:
            self._lookups[collection].settle()


class CollectionReader(ContentReader):
    """Reads the stream of one watched collection."""

    def __init__(
        self, source: Source, collection: str, wanted: Watched, after: int, stop: Event, health: Health
    ) -> None:
        options = _options(source)
        cursor = ChangeCursor(
            source,
            collection,
            after,
            [project_fields(wanted.fields)],
            options,
            _batch_size(source),
            evaluated=wanted.evaluated,
        )
        super().__init__(source, f"collection-{collection}", cursor, {collection: wanted}, stop, health)
        self._collection = collection

    def _read(self, wait_ms: int) -> Batch:
        """Read a batch, from the database's stream if the name is not a collection's any more.

        A view or a time series may have taken the name. The events of the collection before it, and of a collection
        that takes the name later, are in the stream of the database.
        """
        try:
            return super()._read(wait_ms)
        except NotWatchable:
            self._cursor.widen(match_name(self._collection))
            return super()._read(wait_ms)


class DatabaseReader(ContentReader):
    """Reads all watched collections from one stream, which carries order and content together."""

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int, stop: Event, health: Health) -> None:
        every = [wanted.fields for wanted in watched.values()]
        union: Fields = None if None in every else frozenset().union(*(f for f in every if f is not None))
        # Only here: in a collection's own stream each event is paired with an event of the order.
        filters = {name: wanted.filters for name, wanted in watched.items() if wanted.filters}
        stages = [match_collections(watched), *match_filters(filters), project_fields(union)]
        cursor = ChangeCursor(
            source,
            None,
            after,
            stages,
            _options(source),
            _batch_size(source),
            ahead=True,
            evaluated=any(wanted.evaluated for wanted in watched.values()),
        )
        super().__init__(source, "database", cursor, watched, stop, health)
        self.newest_imaged = False
        """Whether the server sent the pre-image of the newest event; one that was looked up does not count."""

    def _read(self, wait_ms: int) -> Batch:
        batch = super()._read(wait_ms)
        self.newest_imaged = bool(batch.events) and batch.events[-1].before is not None
        return batch


def _evaluate(evaluator: Evaluator, events: list[ChangeEvent]) -> None:
    """Set what mongod computes for the tables of a collection, from the documents before and after each event."""
    befores = [event for event in events if event.before is not None]
    afters = [event for event in events if event.after is not None]
    documents = [event.before for event in befores] + [event.after for event in afters]
    for event in events:
        event.computed_before, event.computed_after = {}, {}
    known = range(len(befores))
    found = evaluator.evaluate([document for document in documents if document is not None], set(known))
    for table, results in found.items():
        for event, rows in zip(befores, results, strict=False):
            assert event.computed_before is not None
            event.computed_before[table] = rows
        for event, rows in zip(afters, results[len(befores) :], strict=True):
            assert event.computed_after is not None
            event.computed_after[table] = rows
