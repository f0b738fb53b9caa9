"""Hub: what all sessions share, and where each of them finds the changes after its place."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Condition, Event
from typing import Protocol

from zmsd import position
from zmsd.errors import ResumeLost, Stopped
from zmsd.log import kv
from zmsd.mongodb.feed import DatabaseFeed
from zmsd.mongodb.source import Source
from zmsd.replication.change_log import ChangeLog, Entry, Tail
from zmsd.replication.counters import Tally
from zmsd.replication.encoder import Encoder
from zmsd.replication.lineage import History
from zmsd.replication.problems import Problems
from zmsd.replication.publication import Edition
from zmsd.rows.rejects import Rejects
from zmsd.watermarks.base import WatermarkStore

log = logging.getLogger(__name__)

STUCK = 60.0
"""Seconds for which a client may leave what its private feed has brought unread while others wait for theirs."""


class Readiness:
    """Whether the feed runs, and if not, why: what ``/readyz`` says and new sessions wait for."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._reason: str | None = "starting"

    @property
    def reason(self) -> str | None:
        """None when ready."""
        return self._reason

    def set(self, reason: str | None) -> None:
        with self._changed:
            self._reason = reason
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._reason is None, seconds)


class Changes(Protocol):
    """Entries in order, from the log or from a private feed."""

    def take(self, rows: int, size: int, timeout: float) -> Sequence[Entry]: ...

    def close(self) -> None: ...


@dataclass
class Hub:
    """One for the process. Its methods may be called from any thread."""

    source: Source
    edition: Edition
    """What is published now; set by the dispatcher."""
    store: WatermarkStore
    history: History
    log: ChangeLog
    readiness: Readiness
    rejects: Rejects
    tally: Tally
    private_feeds: int = 4
    stop: Event = field(default_factory=Event)
    problems: Problems = field(default_factory=Problems)

    def __post_init__(self) -> None:
        self._private = BoundedSemaphore(self.private_feeds)
        self._catching_up: set[CatchUp] = set()

    def changes(
        self, place: str, edition: Edition, stop: Event, give_up: Callable[[], bool], end: Callable[[], None]
    ) -> Changes:
        """The changes after a watermark, encoded for an edition. Raises ResumeLost, and Evicted for an old edition.

        :param stop: ends the wait for MongoDB to come back
        :param give_up: asked now and then while waiting for one of the private feeds
        :param end: ends the client, from any thread, that has one and does not read while others wait
        """
        return self.log.tail(place, edition.fingerprint) or self._catch_up(place, edition, stop, give_up, end)

    def between(self, encoder: Encoder, edition: Edition, after: int, end: int, stop: Event) -> Iterator[Entry]:
        """Everything after one position up to another one, which must have been reached. Raises ResumeLost."""
        self._check_reach(after)
        with closing(DatabaseFeed(self.source, edition.watched, after, stop)) as feed:
            while feed.progress < end:
                pieces = feed.read()
                for piece in pieces.pieces if pieces else ():
                    if piece.position <= end:
                        yield from itertools.chain.from_iterable(encoder.entries([piece]))

    def _check_reach(self, after: int) -> None:
        """mongod lets a stream begin at any time before its replica set was made, as if nothing could be missing."""
        start = self.source.oplog_start()
        if start is not None and after + 1 < start:
            begins = position.watermark(start)
            raise ResumeLost(f"MongoDB's oplog begins at {begins}, later than watermark {position.watermark(after)}")

    def _catch_up(
        self, place: str, edition: Edition, stop: Event, give_up: Callable[[], bool], end: Callable[[], None]
    ) -> Changes:
        self._check_reach(position.parse(place)[0])
        if not self._private.acquire(blocking=False):
            log.info(kv("waiting for a private feed", place=place, limit=self.private_feeds))
            while not self._private.acquire(timeout=1.0):
                if give_up():
                    raise Stopped
                for one in self._catching_up.copy():
                    one.end_if_stuck()
        made = CatchUp(self, place, edition, stop, end)
        self._catching_up.add(made)
        return made

    def leave(self, one: CatchUp) -> None:
        """It has met the log, or is given up."""
        self._catching_up.discard(one)
        self._private.release()


class CatchUp:
    """A private feed from a place that the log does not reach, until it meets the log. For one thread."""

    def __init__(self, hub: Hub, place: str, edition: Edition, stop: Event, end: Callable[[], None]) -> None:
        self._hub = hub
        self._edition = edition
        self._end = end
        self._holds = True  # one of the private feeds
        self._most = (0, 0)  # rows and bytes to be given at once
        self._given: float | None = None  # monotonic seconds: its client has had that long to send what it took
        self._tail: Tail | None = None
        self._encoder = edition.encoder()
        self._feed = DatabaseFeed(hub.source, edition.watched, position.parse(place)[0], stop)
        self._entries = self._read()
        log.info(kv("catching up", place=place, log_head=hub.log.head))

    def take(self, rows: int, size: int, timeout: float) -> Sequence[Entry]:
        """As Tail.take; until it meets the log a batch of the feed may exceed ``rows`` and ``size``.

        After an error this is of no use any more.
        """
        if self._tail is None:
            self._given, self._most = None, (rows, size)
            with suppress(StopIteration):
                entries = next(self._entries)
                self._given = time.monotonic()
                return entries
        assert self._tail is not None
        return self._tail.take(rows, size, timeout)

    def _read(self) -> Generator[Sequence[Entry], None, None]:
        """What the private feed brings, until the log has what comes next."""
        while self._tail is None:
            yield from self._joined()
            if not self._feed.in_transaction:
                place = position.watermark(self._feed.progress)
                self._tail = self._hub.log.tail(place, self._edition.fingerprint)
        log.info(kv("caught up", place=place))
        self._free()

    def _joined(self) -> Iterator[Sequence[Entry]]:
        """What the feed brings next, perhaps nothing, and what it has at hand by then."""
        joined: list[Entry] = []
        while True:
            pieces = self._feed.read()
            for entries in self._encoder.entries(pieces.pieces if pieces else ()):
                joined += entries
                rows, size = self._most
                if sum([entry.rows for entry in joined]) >= rows or sum([entry.size for entry in joined]) >= size:
                    yield joined
                    joined = []
            if not self._feed.at_hand:
                break
        yield joined

    def end_if_stuck(self) -> None:
        """Any thread."""
        given = self._given
        if given is not None and time.monotonic() - given > STUCK:
            log.warning(kv("a client that catches up does not read, and others wait: it is ended", seconds=STUCK))
            self._end()

    def close(self) -> None:
        self._entries.close()  # it holds us, and what it was making entries of
        self._free()

    def _free(self) -> None:
        self._feed.close()
        if self._holds:
            self._holds = False
            self._hub.leave(self)
