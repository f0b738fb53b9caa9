"""One total order of events, cut into transactions.

All events of one cluster time belong together: a single write, a multi-document transaction, or the grouped inserts of
MongoDB 8.0. They are returned in one or more parts, so that a transaction of any size needs no more memory than a
batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from zmsd.bson_types import Document
from zmsd.channel import Channel
from zmsd.errors import SequenceError
from zmsd.mongodb import resume_token
from zmsd.mongodb.change_cursor import Batch
from zmsd.mongodb.events import ChangeEvent

_MAX_HELD_BATCHES = 6
"""Batches of content that are held for one batch of the order; at least one for each reader."""


class TransactionPart(NamedTuple):
    """Some or all events of one cluster time."""

    position: int
    events: list[ChangeEvent]
    first: bool
    """Whether it begins the transaction."""
    last: bool
    """Whether it ends the transaction."""


class FeedBatch(NamedTuple):
    """What a feed returns: parts of transactions in order, and its progress."""

    parts: list[TransactionPart]
    progress: int
    """Position up to which everything has been returned; never beyond a transaction that has not ended."""


class PairedEvents(NamedTuple):
    """The events of the first entries of a batch of the order."""

    events: list[ChangeEvent]
    left: list[ChangeEvent]
    """Entries whose events have not been read yet. A thousand events may be gigabytes, so few batches are held."""


class Sequencer:
    """Pairs each entry of the order with the next event of its collection's channel. For one thread."""

    def __init__(self, channels: Mapping[str, Channel[Batch]]) -> None:
        self._channels = channels
        self._queues: dict[str, list[ChangeEvent]] = {name: [] for name in channels}  # reversed: pop() takes the next
        self._paired: list[ChangeEvent | None] = []  # one for each entry that has been paired so far
        self._fetched: list[str] = []  # collections whose batches were taken for these entries

    def pair(self, entries: list[ChangeEvent], seconds: float | None = None) -> PairedEvents | None:
        """Return the events of the entries, or of the first ones of them, in order.

        Return None if a reader has not returned its event within ``seconds``: call again with the same entries.
        Raises the error that has ended a reader, Stopped, and SequenceError if the streams do not match.
        """
        queues = self._queues
        for entry in entries[len(self._paired) :]:
            both = dict.fromkeys((entry.collection, entry.target))
            names = [name for name in both if name is not None and name in queues]
            lacking = [name for name in names if not queues[name]]
            if len(self._fetched) >= _MAX_HELD_BATCHES and any(name in self._fetched for name in lacking):
                break
            if not all(self._fetch(name, seconds) for name in lacking):
                return None
            # A rename between two watched collections is an event of both streams, and is returned once.
            events = [self._next(name, entry) for name in names]
            self._paired.append(events[0] if events else None)
        paired, self._paired = self._paired, []
        self._fetched.clear()
        return PairedEvents([event for event in paired if event is not None], entries[len(paired) :])

    def _fetch(self, collection: str, seconds: float | None) -> bool:
        batch = self._channels[collection].get(seconds)
        if batch is None:
            return False
        self._queues[collection] = batch.events[::-1]
        self._fetched.append(collection)
        return True

    def _next(self, collection: str, entry: ChangeEvent) -> ChangeEvent:
        event = self._queues[collection].pop()
        if event.token != entry.token:
            raise SequenceError(
                f"the stream of {collection} is at {event.token} where the order has {entry.token}: please report it"
            )
        return event


class TransactionGrouper:
    """Cut ordered events into transactions by their cluster time (invariant 2). For one thread."""

    def __init__(self, after: int, *, sharded: bool = False) -> None:
        self.progress = after
        self._sharded = sharded
        self._open: str | None = None  # hexadecimal cluster time of a transaction whose end is unknown yet

    @property
    def is_open(self) -> bool:
        """Whether the end of the newest transaction is unknown yet."""
        return self._open is not None

    def group(self, events: list[ChangeEvent], token: Document, now: int, *, ended: bool) -> FeedBatch:
        """Return the parts of the events, and the progress.

        :param token: resume token up to which all events have been returned
        :param now: the newest position of the member that replied. After a failover it may be older than the events
        :param ended: no further event was visible, so the last event's transaction is complete. A token beyond its
            cluster time proves the same
        """
        times = [event.token["_data"][2:18] for event in events]  # resume_token.time_text, inline
        reached = resume_token.time_text(token)
        parts: list[TransactionPart] = []
        begun = self._open
        newest = times[-1] if times else begun
        complete = newest is None or reached > newest or (ended and now >= int(newest, 16))
        if begun is not None and (times[0] != begun if times else complete):
            parts.append(TransactionPart(int(begun, 16), [], False, True))
            begun = None
        start = 0
        for index in range(1, len(times) + 1):
            if index == len(times) or times[index] != times[start]:
                last = index < len(times) or complete
                parts.append(TransactionPart(int(times[start], 16), events[start:index], times[start] != begun, last))
                begun = None if last else times[start]
                start = index
        self._open = begun
        ended_at = [part.position for part in parts[-2:] if part.last]
        # Behind mongos, more events with the token's own cluster time may follow.
        known = int(reached, 16) - self._sharded if begun is None else 0
        self.progress = max(self.progress, known, *ended_at, 0)
        return FeedBatch(parts, self.progress)
