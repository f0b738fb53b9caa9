"""Catch-up feeds: how a session reads the changes that the change log no longer has."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from threading import BoundedSemaphore, Event
from typing import Protocol

from zmsd import position
from zmsd.errors import ResumeLost, Stopped
from zmsd.log import kv
from zmsd.mongodb.content_reader import Watched
from zmsd.mongodb.feed import DatabaseFeed
from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.change_log import ChangeLog, Entry, LogCursor
from zmsd.replication.entries import EntryBuilder

log = logging.getLogger(__name__)

STUCK_SECONDS = 60.0
"""Seconds for which a client may leave the entries of its catch-up feed unsent while other clients wait for a feed."""


class Changes(Protocol):
    """Entries in the order of their watermarks, from the change log or from a catch-up feed. For one thread."""

    def take(self, rows: int, size: int, timeout: float) -> Sequence[Entry]:
        """Return the next entries: about ``rows`` rows or ``size`` bytes; empty after ``timeout`` seconds without any.

        Raises Evicted if the log no longer has them, and SourceError.
        """
        ...

    def close(self) -> None:
        """Release the feed, if there is one. May be called twice."""
        ...


class CatchUpFeeds:
    """The catch-up feeds of one process, of which only a limited number may be open. Thread-safe.

    Each feed is a change stream of its own, so many of them would slow down mongod.
    """

    def __init__(self, source: Source, change_log: ChangeLog, limit: int) -> None:
        """:param limit: setting ``feed.catch_up``"""
        self._source = source
        self._log = change_log
        self._limit = limit
        self._slots = BoundedSemaphore(limit)
        self._open: set[CatchUp] = set()

    def changes(
        self,
        watermark: str,
        active: ActivePublication,
        stop: Event,
        give_up: Callable[[], bool],
        end: Callable[[], None],
    ) -> Changes:
        """Return the changes after a watermark: from the log, or from a catch-up feed if the log begins later.

        Raises ResumeLost if MongoDB no longer has them, Evicted if the log is for another publication, and Stopped.

        :param stop: ends waits for MongoDB
        :param give_up: called about once a second while waiting for a free feed; True ends the wait with Stopped
        :param end: ends the client, from any thread; called if the client leaves its feed unread while others wait
        """
        found = self._log.tail(watermark, active.fingerprint)
        if found is not None:
            return found
        check_oplog(self._source, position.parse(watermark)[0])
        if not self._slots.acquire(blocking=False):
            log.info(kv("waiting for a catch-up feed", watermark=watermark, limit=self._limit))
            while not self._slots.acquire(timeout=1.0):
                if give_up():
                    raise Stopped
                for one in self._open.copy():
                    one.end_if_stuck()
        opened = CatchUp(self._source, self._log, watermark, active, stop, end, self._release)
        self._open.add(opened)
        return opened

    def any_open(self) -> bool:
        """Return whether a client has a feed. Thread-safe."""
        return bool(self._open)

    def stalled(self, seconds: float) -> str | None:
        """Return which open feeds have waited at least ``seconds`` for a reply, or None. Thread-safe."""
        return "; ".join(filter(None, [one.stalled(seconds) for one in self._open.copy()])) or None

    def _release(self, one: CatchUp) -> None:
        self._open.discard(one)
        self._slots.release()


class CatchUp:
    """One session's change stream from a watermark that the log does not reach, until the log has what comes next.

    For one thread, except ``stalled`` and ``end_if_stuck``.
    """

    def __init__(
        self,
        source: Source,
        change_log: ChangeLog,
        watermark: str,
        active: ActivePublication,
        stop: Event,
        end: Callable[[], None],
        release: Callable[[CatchUp], None],
    ) -> None:
        """:param release: called once, when the change stream is closed"""
        self._log = change_log
        self._watermark = watermark
        self._active = active
        self._end = end
        self._release = release
        self._released = False
        self._limits = (0, 0)  # rows and bytes of the current take
        self._taken_at: float | None = None  # monotonic seconds: the client is sending since then
        self._tail: LogCursor | None = None
        self._builder = active.entry_builder()
        self._feed = DatabaseFeed(source, active.watched, position.parse(watermark)[0], stop)
        self._entries = self._read()
        log.info(kv("catching up", watermark=watermark, log_head=change_log.head))

    def take(self, rows: int, size: int, timeout: float) -> Sequence[Entry]:
        """Return the next entries, as ``LogCursor.take`` does. A batch of the feed may exceed ``rows`` and ``size``.

        After an error the object cannot be used any more.
        """
        if self._tail is None:
            self._taken_at, self._limits = None, (rows, size)
            with suppress(StopIteration):
                entries = next(self._entries)
                self._taken_at = time.monotonic()
                return entries
        assert self._tail is not None
        return self._tail.take(rows, size, timeout)

    def stalled(self, seconds: float) -> str | None:
        """Return why the feed has waited for a reply for at least ``seconds``, or None. Thread-safe."""
        reason = self._feed.health.stalled(seconds)
        return None if reason is None else f"catch-up feed of the client at watermark {self._watermark}: {reason}"

    def end_if_stuck(self) -> None:
        """End the client if it has not sent the taken entries for STUCK_SECONDS. Thread-safe."""
        taken_at = self._taken_at
        if taken_at is not None and time.monotonic() - taken_at > STUCK_SECONDS:
            log.warning(kv("closing stalled catch-up client", seconds=STUCK_SECONDS))
            self._end()

    def close(self) -> None:
        """Close the change stream and release the feed. May be called twice."""
        self._entries.close()  # the generator holds the change stream and half-made entries
        self._close_feed()

    def _read(self) -> Generator[Sequence[Entry], None, None]:
        """Yield what the change stream brings, until the log has what comes next."""
        while self._tail is None:
            yield from self._joined()
            if not self._feed.in_transaction:  # never switch inside a transaction (invariant 2)
                watermark = position.watermark(self._feed.progress)
                self._tail = self._log.tail(watermark, self._active.fingerprint)
        log.info(kv("caught up", watermark=watermark))
        self._close_feed()

    def _joined(self) -> Iterator[Sequence[Entry]]:
        """Yield the next batch, possibly empty, joined with the batches that are buffered by then: the client gets
        fewer and larger transactions."""
        joined: list[Entry] = []
        while True:
            batch = self._feed.read()
            for entries in self._builder.entries(batch.parts if batch else ()):
                joined += entries
                rows, size = self._limits
                if sum([entry.rows for entry in joined]) >= rows or sum([entry.size for entry in joined]) >= size:
                    yield joined
                    joined = []
            if not self._feed.has_buffered:
                break
        yield joined

    def _close_feed(self) -> None:
        self._feed.close()
        if not self._released:
            self._released = True
            self._release(self)


def changes_between(
    source: Source, watched: Mapping[str, Watched], builder: EntryBuilder, after: int, end: int, stop: Event
) -> Iterator[Entry]:
    """Yield the entries after one position up to another one, which MongoDB must have reached.

    Raises ResumeLost, SourceError and Stopped.
    """
    check_oplog(source, after)
    with closing(DatabaseFeed(source, watched, after, stop)) as feed:
        while feed.progress < end:
            batch = feed.read()
            for part in batch.parts if batch else ():
                if part.position <= end:
                    yield from itertools.chain.from_iterable(builder.entries([part]))


def check_oplog(source: Source, after: int) -> None:
    """Raise ResumeLost if the oplog begins later than a position (invariant 6).

    mongod compares ``startAtOperationTime`` with the oplog only if the oplog has lost entries. It accepts a time before
    the replica set was initiated, as if nothing could be missing.
    (https://www.mongodb.com/docs/manual/changeStreams/#resume-a-change-stream)
    """
    start = source.oplog_start()
    if start is not None and after + 1 < start:
        begins = position.watermark(start)
        raise ResumeLost(f"MongoDB's oplog begins at {begins}, later than watermark {position.watermark(after)}")
