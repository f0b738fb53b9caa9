"""Hub: what all sessions share, and where each of them finds the changes after its place."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC
from threading import BoundedSemaphore, Condition, Event, Lock
from typing import Protocol

from zmsd import position
from zmsd.errors import ResumeLost, SourceError, Stopped, StoreError
from zmsd.log import kv
from zmsd.mongodb.feed import DatabaseFeed
from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.change_log import ChangeLog, Entry, Tail
from zmsd.replication.counters import Counters
from zmsd.replication.entries import EntryBuilder
from zmsd.replication.lineage import Lineage
from zmsd.replication.problems import Problems
from zmsd.rows.rejects import Rejects
from zmsd.watermarks.base import Replica, WatermarkStore, outdated

log = logging.getLogger(__name__)

STARTING = "starting"
"""The reason until the feed runs or fails for the first time."""
STUCK = 60.0
"""Seconds for which a client may leave what its private feed has brought unread while others wait for theirs."""


class Readiness:
    """Whether the feed runs, and if not, why: what ``/readyz`` says and new sessions wait for."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._reason: str | None = STARTING

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


@dataclass(slots=True)
class Probe:
    """The database's time as it was asked for, which the streams have yet to reach; for lag reports."""

    sent_ms: int
    """When it was asked for, by this machine's clock; ms since the epoch."""
    commit_ms: int
    """What the database's clock showed."""
    position: int
    """The newest operation in the database then."""
    reached_ms: int | None = None
    """When the change log had everything up to ``position``."""


class Changes(Protocol):
    """Entries in order, from the log or from a private feed."""

    def take(self, rows: int, size: int, timeout: float) -> Sequence[Entry]: ...

    def close(self) -> None: ...


@dataclass
class Hub:
    """One for the process. Its methods may be called from any thread."""

    source: Source
    active: ActivePublication
    """What is published now; set by the dispatcher."""
    store: WatermarkStore
    lineage: Lineage
    log: ChangeLog
    readiness: Readiness
    rejects: Rejects
    counters: Counters
    private_feeds: int = 4
    lag_report: float = 30.0
    """Seconds between lag reports to a client."""
    stop: Event = field(default_factory=Event)
    problems: Problems = field(default_factory=Problems)

    def __post_init__(self) -> None:
        self._private = BoundedSemaphore(self.private_feeds)
        self._catching_up: set[CatchUp] = set()
        self.probe: Probe | None = None
        self._progress = 0
        self._streaming: Counter[Replica] = Counter()
        self._streaming_lock = Lock()
        self._announced: dict[tuple[str, int], frozenset[str]] = {}

    def look_at_clock(self) -> None:
        """Begin a lag report: ask for the database's time; and look whether a store in trouble can be written again.
        May wait for MongoDB; without an answer nothing changes."""
        if self.store.trouble is not None:
            with suppress(StoreError):
                self.store.probe()
        sent = time.time()
        try:
            reply = self.source.command({"hello": 1})
        except SourceError:
            return
        if "operationTime" not in reply:
            return
        commit_ms = int(reply["localTime"].replace(tzinfo=UTC).timestamp() * 1000)
        probe = Probe(int(sent * 1000), commit_ms, position.of_timestamp(reply["operationTime"]))
        if self._progress >= probe.position:
            probe.reached_ms = int(time.time() * 1000)
        self.probe = probe

    def reached(self, progress: int) -> None:
        """Note that the change log has everything up to a position. Dispatcher thread only."""
        self._progress = progress
        probe = self.probe
        if probe is not None and probe.reached_ms is None and progress >= probe.position:
            probe.reached_ms = int(time.time() * 1000)

    def streaming(self) -> dict[Replica, int]:
        """Return the replicas that are connected, with the number of their streams."""
        with self._streaming_lock:
            return dict(self._streaming)

    def connected(self, replica: Replica) -> None:
        """A stream of a replica begins. Warns where another replica of the same shard is connected too."""
        with self._streaming_lock:
            self._streaming[replica] += 1
            versions = frozenset(one.version for one in self._streaming if one[:2] == replica[:2])
            known = self._announced.get(replica[:2], frozenset())
            self._announced[replica[:2]] = versions
        if len(versions) > 1 and not versions <= known:
            log.warning(
                kv(
                    "several replicas of one shard are connected",
                    app=replica.app,
                    shard=replica.shard,
                    replicas=",".join(sorted(versions)),
                    advice="normal while a deployment replaces a replication-manager, or after a reset; otherwise give "
                    "each zero-cache its own ZERO_APP_ID",
                )
            )

    def disconnected(self, replica: Replica) -> None:
        with self._streaming_lock:
            self._streaming[replica] -= 1
            if not self._streaming[replica]:
                del self._streaming[replica]

    def forget_outdated(self, now: str) -> None:
        """Forget the replicas that nobody needs any more. Raises StoreError.

        :param now: watermark of the database's time
        """
        connected = self.streaming()
        for replica in outdated(self.store.replicas(), now):
            if replica not in connected:
                log.info(kv("replica forgotten", app=replica.app, shard=replica.shard, replica=replica.version))
                self.store.forget_replica(replica)

    def changes(
        self, place: str, active: ActivePublication, stop: Event, give_up: Callable[[], bool], end: Callable[[], None]
    ) -> Changes:
        """The changes after a watermark, encoded for an edition. Raises ResumeLost, and Evicted for an old edition.

        :param stop: ends the wait for MongoDB to come back
        :param give_up: asked now and then while waiting for one of the private feeds
        :param end: ends the client, from any thread, that has one and does not read while others wait
        """
        return self.log.tail(place, active.fingerprint) or self._catch_up(place, active, stop, give_up, end)

    def between(
        self, builder: EntryBuilder, active: ActivePublication, after: int, end: int, stop: Event
    ) -> Iterator[Entry]:
        """Everything after one position up to another one, which must have been reached. Raises ResumeLost."""
        self._check_reach(after)
        with closing(DatabaseFeed(self.source, active.watched, after, stop)) as feed:
            while feed.progress < end:
                batch = feed.read()
                for part in batch.parts if batch else ():
                    if part.position <= end:
                        yield from itertools.chain.from_iterable(builder.entries([part]))

    def _check_reach(self, after: int) -> None:
        """mongod lets a stream begin at any time before its replica set was made, as if nothing could be missing."""
        start = self.source.oplog_start()
        if start is not None and after + 1 < start:
            begins = position.watermark(start)
            raise ResumeLost(f"MongoDB's oplog begins at {begins}, later than watermark {position.watermark(after)}")

    def _catch_up(
        self, place: str, active: ActivePublication, stop: Event, give_up: Callable[[], bool], end: Callable[[], None]
    ) -> Changes:
        self._check_reach(position.parse(place)[0])
        if not self._private.acquire(blocking=False):
            log.info(kv("waiting for a private feed", place=place, limit=self.private_feeds))
            while not self._private.acquire(timeout=1.0):
                if give_up():
                    raise Stopped
                for one in self._catching_up.copy():
                    one.end_if_stuck()
        made = CatchUp(self, place, active, stop, end)
        self._catching_up.add(made)
        return made

    def leave(self, one: CatchUp) -> None:
        """It has met the log, or is given up."""
        self._catching_up.discard(one)
        self._private.release()


class CatchUp:
    """A private feed from a place that the log does not reach, until it meets the log. For one thread."""

    def __init__(self, hub: Hub, place: str, active: ActivePublication, stop: Event, end: Callable[[], None]) -> None:
        self._hub = hub
        self._active = active
        self._end = end
        self._holds = True  # one of the private feeds
        self._most = (0, 0)  # rows and bytes to be given at once
        self._given: float | None = None  # monotonic seconds: its client has had that long to send what it took
        self._tail: Tail | None = None
        self._builder = active.entry_builder()
        self._feed = DatabaseFeed(hub.source, active.watched, position.parse(place)[0], stop)
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
                self._tail = self._hub.log.tail(place, self._active.fingerprint)
        log.info(kv("caught up", place=place))
        self._free()

    def _joined(self) -> Iterator[Sequence[Entry]]:
        """What the feed brings next, perhaps nothing, and what it has at hand by then."""
        joined: list[Entry] = []
        while True:
            batch = self._feed.read()
            for entries in self._builder.entries(batch.parts if batch else ()):
                joined += entries
                rows, size = self._most
                if sum([entry.rows for entry in joined]) >= rows or sum([entry.size for entry in joined]) >= size:
                    yield joined
                    joined = []
            if not self._feed.has_buffered:
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
