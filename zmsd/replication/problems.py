"""Published names that have a problem in the database: missing, of the wrong kind, or without images."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Literal, NamedTuple, Protocol

from zmsd.log import kv
from zmsd.mongodb.source import Source
from zmsd.replication.sample import sample_columns
from zmsd.schema.catalog import Catalog, Table

log = logging.getLogger(__name__)

_SAMPLE_SECONDS = 60.0
"""Seconds between samples while some field is missing."""

Kind = Literal["collection", "type", "images", "field"]
KINDS: tuple[Kind, ...] = ("collection", "type", "images", "field")


class Problem(NamedTuple):
    """A problem of one published name."""

    kind: Kind
    """``collection``: it does not exist. ``type``: it is a view or a time series. ``images``: it should have pre- and
    post-images and has none. ``field``: no document has the field of a column."""
    name: str
    """The collection, or ``TABLE.COLUMN`` for a field."""
    reason: str
    """What the problem means and what to do, as the rest of a sentence that begins with the name."""


class ServedPublication(Protocol):
    """The part of ActivePublication that is checked here."""

    @property
    def watched(self) -> Mapping[str, object]:
        """Return the watched collections, by name."""
        ...

    @property
    def catalog(self) -> Catalog:
        """Return the published tables and their mappings."""
        ...


class Problems:
    """The problems of the publication that is served. Thread-safe."""

    def __init__(self) -> None:
        self.current: tuple[Problem, ...] = ()
        self._published: ServedPublication | None = None
        self._sampled: ServedPublication | None = None
        self._sample_at = 0.0  # monotonic seconds
        self._lock = Lock()

    @property
    def empty_tables(self) -> list[str]:
        """Return a line for each published name that is not a collection: its tables are empty until it is one."""
        return [f"{one.name} {one.reason}" for one in self.current if one.kind == "type"]

    def check(self, source: Source, published: ServedPublication) -> None:
        """Check the published collections, and switch on images that are off. Raises SourceError."""
        with self._lock:
            if published is not self._published:  # each publication reports its own
                self._published, self.current = published, ()
            self._check(source, sorted(published.watched))

    def check_fields(self, source: Source) -> None:
        """Search a sample of each collection for the fields that columns are mapped to.

        Done once for each publication, and every ``_SAMPLE_SECONDS`` while a field is missing or a sample fails. Takes
        up to some seconds. Raises SourceError.
        """
        published, now = self._published, time.monotonic()
        if published is None or (self._sampled is published and now < self._sample_at):
            return
        problems: list[Problem] = []
        self._sampled, self._sample_at = published, now + _SAMPLE_SECONDS  # also if this fails: a sample can be costly
        for table in published.catalog.tables:
            if table.mapping.collection not in source.not_collections:
                problems += _missing_fields(source, table)
        with self._lock:
            if self._published is published:
                self._sample_at = now + _SAMPLE_SECONDS if problems else math.inf
                self._replace(("field",), problems)

    def _check(self, source: Source, names: list[str]) -> None:
        found = source.look_at(names)
        if source.wants_images:
            for name in sorted(found - source.images):
                source.ensure_images(name)
        problems: list[Problem] = []
        for name in names:
            kind = source.not_collections.get(name)
            if kind is not None:
                reason = f"is a {kind}, which has no change streams: its tables are empty until it is a collection"
                problems.append(Problem("type", name, reason))
            elif name not in found:
                reason = f"does not exist in database {source.db.name}: its tables are empty until it is created"
                problems.append(Problem("collection", name, reason))
            elif source.wants_images and name not in source.images:
                why = source.missing_images.get(name)
                reason = "has no pre- and post-images" + (f": {why}" if why else "")
                problems.append(Problem("images", name, reason))
        self._replace(("collection", "type", "images"), problems)

    def _replace(self, kinds: tuple[Kind, ...], problems: list[Problem]) -> None:
        before = {one[:2]: one for one in self.current if one.kind in kinds}
        now = {one[:2]: one for one in problems}
        for key, one in now.items():
            if key not in before:
                log.warning(kv("published name has a problem", name=one.name, reason=one.reason))
        for key, one in before.items():
            if key not in now:
                log.info(kv("problem of a published name solved", name=one.name, problem=one.kind))
        others = [one for one in self.current if one.kind not in kinds]
        self.current = (*problems, *others)


def _missing_fields(source: Source, table: Table) -> Iterator[Problem]:
    for one in sample_columns(source, table):
        if one.is_missing:
            effect = "no row can be sent: it is in the primary key" if one.is_key else "the column is null"
            reason = f"is mapped to field {one.path}, which none of {one.total} sampled documents has: {effect}"
            yield Problem("field", f"{table.name}.{one.name}", reason)
