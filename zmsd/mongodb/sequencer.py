"""One total order of events, cut into transactions.

One clusterTime is one unit of change: a single write, a multi-document transaction, the grouped inserts of MongoDB 8. A
unit leaves here in one or more *parts*, so that a transaction of any size needs no more memory than a batch.
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

_HELD = 6
"""Batches of content that are taken for one of the order; of each reader at least one."""


class TransactionPart(NamedTuple):
    """Some or all events of one clusterTime."""

    position: int
    events: list[ChangeEvent]
    first: bool
    last: bool


class FeedBatch(NamedTuple):
    """What a feed yields: parts in order, and how far everything is known."""

    parts: list[TransactionPart]
    progress: int
    """Everything up to this position has been delivered (never beyond an unfinished transaction)."""


class PairedEvents(NamedTuple):
    """What has become of some entries of the order."""

    events: list[ChangeEvent]
    left: list[ChangeEvent]
    """Entries whose events are yet to be had: not so many batches are held at once, for a thousand events may be
    gigabytes."""


class Sequencer:
    """Pairs each entry of the order with the next event of its collection's channel."""

    def __init__(self, channels: Mapping[str, Channel[Batch]]) -> None:
        self._channels = channels
        self._queues: dict[str, list[ChangeEvent]] = {name: [] for name in channels}  # reversed: pop() takes the next
        self._paired: list[ChangeEvent | None] = []  # of the entries that are being paired, one for each
        self._fetched: list[str] = []  # whose batches were taken for them

    def pair(self, entries: list[ChangeEvent], seconds: float | None = None) -> PairedEvents | None:
        """The events of the entries, or of the first of them, in order. Raises what ended a reader, or Closed.

        None where a reader has not brought its event within so many seconds: call again with the same entries.
        """
        queues = self._queues
        for entry in entries[len(self._paired) :]:
            both = dict.fromkeys((entry.collection, entry.target))
            names = [name for name in both if name is not None and name in queues]
            lacking = [name for name in names if not queues[name]]
            if len(self._fetched) >= _HELD and any(name in self._fetched for name in lacking):
                break
            if not all(self._fetch(name, seconds) for name in lacking):
                return None
            # A rename between two watched collections is an event of both streams, and stands for both sides once.
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
    """Cuts ordered events into parts by their clusterTime."""

    def __init__(self, after: int, *, sharded: bool = False) -> None:
        self.progress = after
        self._sharded = sharded
        self._open: str | None = None  # hexadecimal clusterTime of a transaction whose end is not known yet

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def group(self, events: list[ChangeEvent], token: Document, now: int, *, ended: bool) -> FeedBatch:
        """:param token: everything up to it has been delivered
        :param now: the database's time for the member that answered: after a failover it may not have come as far
        :param ended: nothing more was visible, so the last event's transaction is whole (a token beyond it says so too)
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
        whole = [part.position for part in parts[-2:] if part.last]
        # Behind mongos a token's own time may have more to come.
        known = int(reached, 16) - self._sharded if begun is None else 0
        self.progress = max(self.progress, known, *whole, 0)
        return FeedBatch(parts, self.progress)
