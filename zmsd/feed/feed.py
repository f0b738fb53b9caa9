"""Feed: everything that happens in the watched collections after a position, in order, for ever."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Event
from types import TracebackType

from zmsd.deadline import Deadline
from zmsd.feed.channel import Closed
from zmsd.feed.collection import CollectionReader, DatabaseReader, Watched
from zmsd.feed.cursor import AWAIT_MS, Batch
from zmsd.feed.order import OrderReader
from zmsd.feed.reader import Health, ReaderThread
from zmsd.feed.sequencer import Grouper, Pieces, Sequencer
from zmsd.feed.source import Source

SETTLE_MS = 1
"""Milliseconds that a stream with content is asked again for the rest of a transaction whose end is not known."""


class Feed:
    """Starts at a position and owns its readers. For one thread.

    A context manager: on leaving, the readers have been told to end and were waited for.
    """

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int, stop: Event | None = None) -> None:
        """:param watched: the collections, and what is wanted of them
        :param after: the position after which it begins
        :param stop: ends it from outside, also where it waits for MongoDB to come back
        """
        self.health = Health(source.failures)
        self._stop = stop or Event()
        self._sharded = source.topology.sharded
        self._grouper = Grouper(after, sharded=self._sharded)

    @property
    def progress(self) -> int:
        """Everything up to this position has been read."""
        return self._grouper.progress

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        """Reader -> (batches that wait in its queue, how many may). Any thread."""
        return {}

    @property
    def in_transaction(self) -> bool:
        """The end of what was read last is not known yet."""
        return self._grouper.is_open

    def read(self) -> Pieces | None:
        """What came next, perhaps nothing but progress; None when there was nothing in about a second.

        Raises ResumeLost, EventTooLarge, SourceUnavailable (begin again at ``progress``) and Closed.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back what it holds; for its thread."""
        raise NotImplementedError

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DatabaseFeed(Feed):
    """One stream over the database, read by the caller's own thread. Also what a client that is behind reads from."""

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int, stop: Event | None = None) -> None:
        super().__init__(source, watched, after, stop)
        self._reader = DatabaseReader(source, watched, after, self._stop, self.health)

    def read(self) -> Pieces | None:
        if self._stop.is_set():
            raise Closed
        batch = self._reader.step(SETTLE_MS if self._grouper.is_open else AWAIT_MS)
        if batch is None:
            return None
        # A batch of content may have been cut at 16 MB: only an empty one tells the end, behind mongos not even that
        return self._grouper.group(batch.events, batch.token, ended=not batch.events and not self._sharded)

    def close(self) -> None:
        self._reader.close()


class CollectionFeed(Feed):
    """A stream and a thread per collection, and one more of each for the order."""

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int) -> None:
        super().__init__(source, watched, after)
        self._batch: Batch | None = None  # of the order, for which some reader has not brought all yet
        order = OrderReader(source, watched, after, self._stop, self.health)
        self._order = ReaderThread(order, self._stop, keep_empty=True)
        self._readers = {
            name: ReaderThread(
                CollectionReader(source, name, wanted, after, self._stop, self.health), self._stop, keep_empty=False
            )
            for name, wanted in watched.items()
        }
        self._sequencer = Sequencer({name: reader.channel for name, reader in self._readers.items()})
        for reader in (self._order, *self._readers.values()):
            reader.thread.start()

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        readers = {"order": self._order, **{f"collection-{name}": found for name, found in self._readers.items()}}
        return {name: (len(reader.channel), reader.channel.limit) for name, reader in readers.items()}

    def read(self) -> Pieces | None:
        batch = self._batch or self._order.channel.get(AWAIT_MS / 1000)
        events = None if batch is None else self._sequencer.pair(batch.events, AWAIT_MS / 2000)
        if batch is None or events is None:
            self._batch = batch
            return None
        self._batch = None
        # An entry of the order is far too small for 16 MB to end a batch: a short one ended because all was said.
        return self._grouper.group(events, batch.token, ended=batch.short and not self._sharded)

    def close(self) -> None:
        self._stop.set()
        for reader in (self._order, *self._readers.values()):
            reader.channel.close()
        deadline = Deadline(5.0)
        for reader in (self._order, *self._readers.values()):
            reader.thread.join(deadline.remaining())


def open_feed(scope: str, source: Source, watched: Mapping[str, Watched], after: int) -> Feed:
    """The live feed of setting ``feed.scope``."""
    return (DatabaseFeed if scope == "database" else CollectionFeed)(source, watched, after)
