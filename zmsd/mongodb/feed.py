"""Feed: everything that happens in the watched collections after a position, in order, for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
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

_BACKLOG = 3
"""Full batches after which it is one."""
_CALM_EVENTS, _CALM_SECONDS = 1000, 1.0
"""With less than so many events in so many seconds, the end of it having been reached, it is none any more."""
MAX_COLLECTION_STREAMS = 10
"""Watched collections up to which ``feed.scope: auto`` gives each a change stream of its own."""


class Feed:
    """Starts at a position and owns its readers. For one thread.

    A context manager: on leaving, the readers have been told to end and were waited for.
    """

    scope: str
    """``collection`` or ``database``: setting ``feed.scope``, or what *auto* means here."""

    @property
    def health(self) -> Health:
        """Of its readers. Any thread."""
        raise NotImplementedError

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        """Reader -> (batches that wait in its queue, how many may). Any thread."""
        return {}

    @property
    def has_buffered(self) -> bool:
        """What comes next does not have to be asked for."""
        return False

    def read(self) -> FeedBatch | None:
        """What came next, perhaps nothing but progress; None when there was nothing in about a second.

        Raises ResumeLost, EventUnreadable, SourceUnavailable (begin again at ``progress``) and Stopped.
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


class StreamFeed(Feed):
    """Reads one way."""

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int, stop: Event | None = None) -> None:
        """:param watched: the collections, and what is wanted of them
        :param after: the position after which it begins
        :param stop: ends it from outside, also where it waits for MongoDB to come back
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
        """Everything up to this position has been read."""
        return self._grouper.progress

    @property
    def in_transaction(self) -> bool:
        """The end of what was read last is not known yet."""
        return self._grouper.is_open


class DatabaseFeed(StreamFeed):
    """One stream over the database, read by the caller's own thread. Also what a client that is behind reads from."""

    scope = "database"

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int, stop: Event | None = None) -> None:
        super().__init__(source, watched, after, stop)
        self._source = source
        self.caught_up = False
        """It was within a second of the database's own time."""
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
        """Nothing more has the last event's time. A batch of content may have been cut at 16 MB, so only an empty one
        says so; but what is in no transaction is alone at its time, which saves that question: 1.5 of 4.7 ms."""
        return not batch.events or (
            not self._source.may_group_writes()
            and not batch.events[-1].in_transaction
            and batch.events[-1].kind in OF_DOCUMENTS
        )


class CollectionFeed(StreamFeed):
    """A stream and a thread per collection, and one more of each for the order."""

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int) -> None:
        super().__init__(source, watched, after)
        self.backlogged = False
        """There is a backlog, before which it has come to rest: another feed may go on at its progress."""
        self._full = 0  # batches of the order, one after the other, that did not hold all that was there
        self._batch: Batch | None = None  # of the order, for which some reader has not brought all yet
        order = OrderReader(source, watched, after, self._stop, self.health)
        self._order = reader_thread(order, self._stop, keep_empty=True)
        self._readers = {
            name: reader_thread(
                CollectionReader(source, name, wanted, after, self._stop, self.health), self._stop, keep_empty=False
            )
            for name, wanted in watched.items()
        }
        self._sequencer = Sequencer({name: reader.channel for name, reader in self._readers.items()})
        for reader in (self._order, *self._readers.values()):
            reader.start()

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        readers = {"order": self._order, **{f"collection-{name}": found for name, found in self._readers.items()}}
        return {name: (len(reader.channel), reader.channel.limit) for name, reader in readers.items()}

    def read(self) -> FeedBatch | None:
        self.health.check()
        batch = self._batch or self._order.channel.get(AWAIT_MS / 1000)
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
        if self._full >= _BACKLOG and (whole := _but_the_last(events)):
            self.backlogged = True
            return self._grouper.group(whole, whole[-1].token, batch.now, ended=True)
        # An entry of the order is far too small for 16 MB to end a batch: a short one ended because all was said.
        return self._grouper.group(events, batch.token, batch.now, ended=batch.drained and not self._sharded)

    def detach(self) -> list[Thread]:
        """Its readers may end, which those that wait for events do within a second; their threads."""
        self._stop.set()
        readers = [self._order, *self._readers.values()]
        for reader in readers:
            reader.channel.close()
        return [reader.thread for reader in readers]

    def close(self) -> None:
        _join(self.detach())


class AdaptiveFeed(Feed):
    """A stream for each collection, as long as they keep up; for a backlog one over the database.

    mongod reads the oplog for each stream: of 25,000 changes/s that come by one stream, 15,000 do by those of five
    collections and their order.
    """

    scope = "collection"

    def __init__(self, source: Source, watched: Mapping[str, Watched], after: int, stop: Event | None = None) -> None:
        """:param stop: ends it from outside"""
        self._source = source
        self._watched = watched
        self._stop = stop
        self._feed: CollectionFeed | DatabaseFeed = CollectionFeed(source, watched, after)
        self._left: list[Thread] = []  # readers that may not have ended yet
        self._since = 0.0  # monotonic seconds: when the events of the backlog's stream were counted last
        self._events = 0

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
        feed = self._feed
        if isinstance(feed, CollectionFeed):
            if feed.backlogged:
                self._catch_up(feed)
        elif time.monotonic() - self._since >= _CALM_SECONDS and not feed.in_transaction:
            self._count(feed)
        batch = self._feed.read()
        self._events += sum(len(part.events) for part in batch.parts) if batch else 0
        return batch

    def close(self) -> None:
        self._feed.close()
        _join(self._left)

    def _catch_up(self, feed: CollectionFeed) -> None:
        log.debug("backlog: reading the database as one stream")
        self._left = feed.detach()
        self._feed = DatabaseFeed(self._source, self._watched, feed.progress, self._stop)
        self._since, self._events = time.monotonic(), 0

    def _count(self, feed: DatabaseFeed) -> None:
        if self._events < _CALM_EVENTS and feed.caught_up and not feed.health.problem:
            log.debug("no backlog: reading each collection by itself")
            self.close()
            self._left = []
            self._feed = CollectionFeed(self._source, self._watched, feed.progress)
        self._since, self._events = time.monotonic(), 0


def _join(threads: list[Thread]) -> None:
    deadline = Deadline(5.0)
    for thread in threads:
        thread.join(deadline.remaining())


def _but_the_last(events: list[ChangeEvent]) -> list[ChangeEvent]:
    """Without those of the last clusterTime, of which there may be more."""
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


def open_feed(setting: str, source: Source, watched: Mapping[str, Watched], after: int, stop: Event) -> Feed:
    """The live feed of setting ``feed.scope``."""
    one_stream = _scope(setting, source, len(watched)) == "database"
    return (DatabaseFeed if one_stream else AdaptiveFeed)(source, watched, after, stop)
