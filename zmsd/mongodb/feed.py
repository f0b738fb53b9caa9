"""Feeds: everything that happens in the watched collections after a position, in one order, without an end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from types import TracebackType

from zmsd import position
from zmsd.deadline import Deadline
from zmsd.errors import Stopped
from zmsd.mongodb import resume_token
from zmsd.mongodb.change_cursor import AT_ONCE_MS, AWAIT_MS, Batch
from zmsd.mongodb.content_reader import CollectionReader, DatabaseReader, Watched
from zmsd.mongodb.events import OF_DOCUMENTS, ChangeEvent
from zmsd.mongodb.reader import Health, OrderReader, reader_thread
from zmsd.mongodb.sequencer import FeedBatch, Sequencer, TransactionGrouper
from zmsd.mongodb.source import Source

log = logging.getLogger(__name__)

_BACKLOG_BATCHES = 3
"""Consecutive full batches after which the feed counts as backlogged."""
_BUSY_EVENTS, _BUSY_SECONDS = 500, 1.0
"""Events in about this many seconds from which on the feed reads one stream (bench/README.rst)."""
_CALM_EVENTS, _CALM_SECONDS = 2500, 10.0
"""With fewer events in about this many seconds it reads a stream for each collection again. The time is long, because
filters may hide from one stream most of the events that made mongod busy."""
MAX_COLLECTION_STREAMS = 10
"""Watched collections up to which ``feed.scope: auto`` gives each a change stream of its own."""


class Feed:
    """Starts at a position and owns its readers. For one thread.

    A context manager: it ends with ``close``.
    """

    @property
    def scope(self) -> str:
        """``collection`` or ``database``: how it reads now. Thread-safe."""
        raise NotImplementedError

    @property
    def health(self) -> Health:
        """State of the readers. Thread-safe."""
        raise NotImplementedError

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        """Reader -> (batches that wait in its queue, most that may wait). Thread-safe."""
        return {}

    @property
    def has_buffered(self) -> bool:
        """Whether the next read returns events without a request."""
        return False

    def read(self) -> FeedBatch | None:
        """Return the next parts of transactions, perhaps only progress, or None after about a second without either.

        Raises ResumeLost, EventUnreadable, SourceUnavailable (begin again at ``progress``) and Stopped.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stop the readers and wait for them, for up to 5 s."""
        raise NotImplementedError

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StreamFeed(Feed):
    """A feed that reads by database or by collection from its start to its end."""

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int, stop: Event | None = None) -> None:
        """:param watched: the collections, and what is read of each
        :param after: the position after which it begins
        :param stop: ends it from another thread, also while it waits for MongoDB to come back
        """
        self._health = Health(source.failures, source.recoveries)
        self._stop = stop or Event()
        self._sharded = source.deployment.sharded
        self._grouper = TransactionGrouper(after, sharded=self._sharded)

    @property
    def health(self) -> Health:
        return self._health

    @property
    def progress(self) -> int:
        """Position up to which everything has been read."""
        return self._grouper.progress

    @property
    def in_transaction(self) -> bool:
        """Whether the end of the newest transaction is unknown yet."""
        return self._grouper.is_open


class DatabaseFeed(StreamFeed):
    """One stream over the database, read by the caller's own thread. Catch-up feeds of clients are of this kind."""

    scope = "database"

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int, stop: Event | None = None) -> None:
        super().__init__(source, watched, after, stop)
        self._source = source
        self.caught_up = False
        """Whether the newest batch was within a second of the database's own time."""
        self._reader = DatabaseReader(source, watched, after, self._stop, self.health)

    @property
    def has_buffered(self) -> bool:
        return self._reader.has_buffered

    def read(self) -> FeedBatch | None:
        if self._stop.is_set():
            raise Stopped
        batch = self._reader.read_batch(AT_ONCE_MS if self._grouper.is_open else AWAIT_MS)
        if batch is None:
            return None
        self.caught_up = position.seconds(batch.now) - position.seconds(resume_token.position_of(batch.token)) <= 1
        return self._grouper.group(batch.events, batch.token, batch.now, ended=not self._sharded and self._ended(batch))

    def close(self) -> None:
        self._reader.close()

    def _ended(self, batch: Batch) -> bool:
        """Return whether no further event has the last event's cluster time.

        A batch with documents may have been cut at 16 MB, so only an empty batch proves it. An event outside of a
        transaction is alone at its cluster time where writes are not grouped, which saves a request.
        """
        return not batch.events or (
            not batch.events[-1].in_transaction
            and batch.events[-1].kind in OF_DOCUMENTS
            and not self._source.may_group(imaged=self._reader.newest_imaged)
        )


class CollectionFeed(StreamFeed):
    """A stream and a thread for each collection; the caller's own thread reads their order."""

    scope = "collection"

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int, stop: Event | None = None) -> None:
        super().__init__(source, watched, after, stop)
        self.backlogged = False
        """Whether there is a backlog. The feed has stopped between two transactions: another feed may continue at its
        progress."""
        self._full = 0  # consecutive batches of the order that did not have all events that were visible
        self._batch: Batch | None = None  # batch of the order that waits for the events of some reader
        self._order = OrderReader(source, watched, after, self._stop, self.health)
        self._readers_stop = Event()
        self._readers = {
            name: reader_thread(
                CollectionReader(source, name, wanted, after, self._readers_stop, self.health), self._readers_stop
            )
            for name, wanted in watched.items()
        }
        self._sequencer = Sequencer({name: reader.channel for name, reader in self._readers.items()})
        for reader in self._readers.values():
            reader.start()

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        return {
            f"collection-{name}": (len(reader.channel), reader.channel.limit) for name, reader in self._readers.items()
        }

    def read(self) -> FeedBatch | None:
        if self._stop.is_set():
            raise Stopped
        self.health.check()
        batch = self._batch or self._order.read_batch()
        paired = None if batch is None else self._sequencer.pair(batch.events, AWAIT_MS / 2000)
        if batch is None or paired is None:
            self._batch = batch
            return None
        events, left = paired
        if left:
            self._batch = batch._replace(events=left)
            token = events[-1].token
            ended = resume_token.time_text(left[0].token) > resume_token.time_text(token)
            return self._grouper.group(events, token, batch.now, ended=ended)
        self._batch = None
        self._full = 0 if batch.drained else self._full + 1
        if self._full >= _BACKLOG_BATCHES and (whole := _but_the_last(events)):
            self.backlogged = True
            return self._grouper.group(whole, whole[-1].token, batch.now, ended=True)
        # Entries of the order are too small to fill 16 MB: a drained batch ended because no further event was visible.
        return self._grouper.group(events, batch.token, batch.now, ended=batch.drained and not self._sharded)

    def detach(self) -> list[Thread]:
        """Stop the readers' threads and return them; they end within about a second. Close the order's stream."""
        self._readers_stop.set()
        for reader in self._readers.values():
            reader.channel.close()
        self._order.close()
        return [reader.thread for reader in self._readers.values()]

    def close(self) -> None:
        _join(self.detach())


class AdaptiveFeed(Feed):
    """A stream for each collection; one over the database in a backlog, at high rates, and while clients catch up.

    mongod reads the oplog for each stream, and wakes each at every write. So one stream reads a backlog faster, takes
    less processor time for a change at high rates, and delays live changes less while catch-up feeds read the oplog too
    (bench/README.rst).
    """

    def __init__(
        self,
        source: Source,
        watched: Mapping[str, Watched],
        after: int,
        stop: Event | None = None,
        catch_up_is_open: Callable[[], bool] = lambda: False,
    ) -> None:
        """:param stop: ends it from another thread
        :param catch_up_is_open: returns whether a client reads a catch-up feed
        """
        self._source = source
        self._watched = watched
        self._stop = stop
        self._catch_up_is_open = catch_up_is_open
        self._feed: CollectionFeed | DatabaseFeed = CollectionFeed(source, watched, after, stop)
        self._detached: list[Thread] = []  # threads of readers that may not have ended yet
        self._since = time.monotonic()  # when the count began
        self._events = 0

    @property
    def scope(self) -> str:
        return self._feed.scope

    @property
    def health(self) -> Health:
        return self._feed.health

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        return self._feed.queues

    @property
    def has_buffered(self) -> bool:
        return self._feed.has_buffered

    def read(self) -> FeedBatch | None:
        self._choose()
        batch = self._feed.read()
        self._events += sum([len(part.events) for part in batch.parts]) if batch else 0
        return batch

    def close(self) -> None:
        self._feed.close()
        _join(self._detached)

    def _choose(self) -> None:
        """Go on with the other kind of feed, from the progress of the present one, if that is better now."""
        feed, seconds = self._feed, time.monotonic() - self._since
        may_change = not feed.in_transaction and not feed.health.problem
        if isinstance(feed, CollectionFeed):
            counted = seconds >= _BUSY_SECONDS
            busy = self._events >= _BUSY_EVENTS or self._catch_up_is_open()
            if feed.backlogged or (may_change and busy):
                log.debug("reading the database as one stream")
                self._detached = [*filter(Thread.is_alive, self._detached), *feed.detach()]
                self._feed = DatabaseFeed(self._source, self._watched, feed.progress, self._stop)
        else:
            counted = seconds >= _CALM_SECONDS and may_change
            calm = self._events < _CALM_EVENTS and feed.caught_up and not self._catch_up_is_open()
            if counted and calm:
                log.debug("reading each collection by itself")
                feed.close()
                self._feed = CollectionFeed(self._source, self._watched, feed.progress, self._stop)
        if counted or self._feed is not feed:
            self._since, self._events = time.monotonic(), 0


def _join(threads: list[Thread]) -> None:
    deadline = Deadline(5.0)
    for thread in threads:
        thread.join(deadline.remaining())


def _but_the_last(events: list[ChangeEvent]) -> list[ChangeEvent]:
    """Return the events without those of the last cluster time, which may have more events."""
    last = resume_token.time_text(events[-1].token) if events else ""
    return [event for event in events if resume_token.time_text(event.token) != last]


def _scope(setting: str, source: Source, collections: int) -> str:
    """Return ``collection`` or ``database``, also where the setting is ``auto``.

    Each collection is decoded and completed by a thread of its own as long as this is affordable. mongod wakes every
    stream at every write, so its cost per write grows with the number of collections (bench/README.rst), and mongos
    opens every stream on every shard
    (https://www.mongodb.com/docs/manual/administration/change-streams-production-recommendations/).

    :param setting: ``feed.scope``
    :param source: has been prepared, so its deployment is known
    :param collections: how many collections are watched
    """
    if setting != "auto":
        return setting
    affordable = collections <= MAX_COLLECTION_STREAMS and not source.deployment.sharded
    return "collection" if affordable else "database"


def open_feed(
    setting: str,
    source: Source,
    watched: Mapping[str, Watched],
    after: int,
    stop: Event,
    catch_up_is_open: Callable[[], bool],
) -> Feed:
    """Return the live feed for the setting ``feed.scope``, started after a position.

    :param catch_up_is_open: returns whether a client reads a catch-up feed
    """
    if _scope(setting, source, len(watched)) == "database":
        return DatabaseFeed(source, watched, after, stop)
    return AdaptiveFeed(source, watched, after, stop, catch_up_is_open)
