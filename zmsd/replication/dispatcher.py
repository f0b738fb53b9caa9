"""The dispatcher thread: it runs the live feed and puts what happens into the change log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread

from zmsd import position
from zmsd.errors import ResumeLost, SourceError, SourceRefused, Stopped, StoreError
from zmsd.log import kv
from zmsd.mongodb import resume_token
from zmsd.mongodb.feed import Feed
from zmsd.mongodb.sequencer import FeedBatch
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.change_log import Entry
from zmsd.replication.entries import EntryBuilder
from zmsd.replication.hub import Hub
from zmsd.replication.preparation import remember_identity
from zmsd.retry import REFUSED_WAIT_SECONDS, RetryLog, backoff

log = logging.getLogger(__name__)


_FEW, _YIELD = 100, 0.0002
"""After so few entries the sessions are given the interpreter for so many seconds: they send them 0.07 ms sooner
than while more is done here."""
_CHECKPOINT = 1.0
"""Seconds between checkpoints in the store."""
_RENEW = 2
"""Failed beginnings after which the connection is made anew."""
_IDENTITY = 60.0
"""Seconds between looks at what the database is known by: its collections come and go."""
STALLED_SECONDS = 15.0
"""Seconds without progress after which that is the reason on /readyz: longer than the deadline of a request, which is
repeated, and shorter than a watchdog's."""
_PATIENCE = 60.0
"""Seconds without progress after which the dispatcher counts as hanging. In idle times there is some every second."""


class Dispatcher:
    """Owns the live feed. Everything but ``stop`` runs in its thread."""

    def __init__(
        self,
        hub: Hub,
        prepare: Callable[[ActivePublication], int],
        open_feed: Callable[[ActivePublication, int], Feed],
        heartbeat: float,
        died: Callable[[str], None],
    ) -> None:
        """:param prepare: makes the database ready to be watched; gives the position to begin at if the log is empty
        :param heartbeat: seconds without a transaction after which an empty one says how far we are
        :param died: told when the thread ends by itself
        """
        self._hub = hub
        self._log = hub.log
        self._readiness = hub.readiness
        self._next: ActivePublication | None = None  # what is to be published from the next place on
        self._prepare = prepare
        self._open_feed = open_feed
        self._heartbeat = heartbeat
        self._died = died
        self._stop = Event()
        self._place: int | None = None  # everything up to it is in the log
        self._begun = 0  # the place at which that began
        self._last_entry = time.monotonic()
        self._last_checkpoint = 0.0
        self._newest: tuple[str, str] | None = None  # what the next checkpoint will be
        self._last_identity = time.monotonic()
        self._store_trouble = RetryLog(log, "keeping a checkpoint")
        self._repeated = RetryLog(log, "feed")
        self._renewal = RetryLog(log, "connection renewal")
        self._waits = backoff()
        self._feed: Feed | None = None
        self._progress_at = time.monotonic()
        self._alive_until = self._progress_at + _PATIENCE
        self.thread = Thread(target=self._run, name="dispatcher", daemon=True)

    @property
    def place(self) -> int | None:
        """The position up to which everything is in the log."""
        return self._place

    @property
    def progress_age(self) -> float:
        """Seconds since the feed last made progress. Thread-safe."""
        return time.monotonic() - self._progress_at

    @property
    def stalled(self) -> str | None:
        """What has kept the feed from making progress for STALLED_SECONDS; None: nothing has. Thread-safe."""
        feed = self._feed
        waits = None if feed is None else feed.health.stalled(STALLED_SECONDS)
        if waits is not None or self.progress_age < STALLED_SECONDS:
            return waits
        return f"the dispatcher has made no progress for {self.progress_age:.0f} s"

    def stop(self) -> None:
        self._stop.set()

    def publish(self, active: ActivePublication) -> None:
        """Publish another edition from the next place on."""
        self._next = active

    def is_alive(self) -> bool:
        """Whether it makes progress, or waits in a retry that it knows: what feeds the watchdog. Any thread."""
        feed = self._feed
        quiet_deadline = 0.0 if feed is None else feed.health.quiet_deadline
        return self.thread.is_alive() and time.monotonic() < max(self._alive_until, quiet_deadline)

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        """Reader -> (batches that wait in its queue, how many may). Any thread."""
        feed = self._feed
        return {} if feed is None else feed.queues

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._feed_once()
                except Stopped:
                    break
                except ResumeLost as error:
                    # Not a word to the sessions here: each is told when it asks for changes that cannot be had.
                    self._readiness.set(f"position lost, beginning anew: {error}")
                    self._repeated.failed(f"live position lost, beginning anew: {error}", logging.ERROR)
                    self._place = self._newest = None
                    self._wait(next(self._waits))
                except SourceError as error:
                    self._readiness.set(str(error))
                    self._hub.source.failures.inc()
                    level = logging.ERROR if isinstance(error, SourceRefused) else logging.WARNING
                    self._repeated.failed(error, level)
                    if self._repeated.attempts % _RENEW == 0:
                        self._renew(error)
                    self._wait(REFUSED_WAIT_SECONDS if isinstance(error, SourceRefused) else next(self._waits))
                except StoreError as error:  # what the database is known by must be kept before it is read
                    self._readiness.set(str(error))
                    self._repeated.failed(error, logging.ERROR)
                    self._wait(next(self._waits))
        except Exception:
            log.exception("dispatcher failed")
        finally:
            self._checkpoint(now=True)
            self._readiness.set("stopping")
            if not self._stop.is_set():
                self._died("dispatcher")

    def _renew(self, why: SourceError) -> None:
        """Make the connection anew. If that fails too, as while a certificate's file is replaced, report both."""
        try:
            self._hub.source.reconnect()
        except SourceError as error:
            self._renewal.failed(error)
            self._readiness.set(f"{why}; the connection cannot be made again: {error}")
        else:
            self._renewal.recovered()

    def _feed_once(self) -> None:
        """From preparing the database to the feed's end."""
        self._checkpoint(now=True)  # what is looked for in the database, to see whether it is the same
        active = self._next or self._hub.active
        recoveries = self._hub.source.recoveries.value()
        now = self._prepare(active)
        deployment = self._hub.source.deployment
        if self._place is not None:
            self._check_place()
        self._log.cut()
        if self._place is not None and self._log.head is not None:
            # A part of a batch may have got into it before the rest failed.
            self._place = max(self._place, position.parse(self._log.head)[0])
        if self._place is None or active is not self._hub.active:
            # The sessions find their places again, and take their clients over to the new edition.
            if self._place is None:
                self._place = self._begun = now
            self._hub.active = active
            self._log.start(position.watermark(self._place), active.fingerprint)
        self._hub.problems.look(self._hub.source, active)
        builder = active.entry_builder(self._hub.counters.rows, self._progressed)
        self._progressed()
        with self._open_feed(active, self._place) as feed:
            self._feed = feed
            log.info(kv("feed runs", position=position.watermark(self._place), scope=feed.scope))
            while not self._stop.is_set():
                batch = feed.read()
                known, recoveries = recoveries, self._hub.source.recoveries.value()
                if recoveries != known:
                    # A reader has tried by itself for a while, in which an older state may have been restored, or
                    # another version of MongoDB started.
                    self._hub.source.look()
                    self._checkpoint(now=True)
                    self._hub.lineage.distrust()
                    self._check_place()
                problem = feed.health.problem
                if problem != self._readiness.reason:
                    self._readiness.set(problem)
                if batch is not None:
                    self._progressed()
                    if self._repeated.attempts:
                        self._repeated.recovered()
                        self._waits = backoff()
                    self._append(builder, batch, more=feed.has_buffered)
                self._checkpoint()
                if self._next not in (None, active) or self._hub.source.deployment is not deployment:
                    return
            raise Stopped

    def _check_place(self) -> None:
        assert self._place is not None
        self._hub.lineage.check_watermark(position.watermark(self._place), position.watermark(self._begun))

    def _append(self, builder: EntryBuilder, batch: FeedBatch, *, more: bool) -> None:
        made = False
        for entries in builder.entries(batch.parts):
            self._log.extend(entries, more=more)
            if len(entries) < _FEW and not more:
                time.sleep(_YIELD)
            self._hub.counters.made(entries)
            made = True
        self._hub.counters.read(batch.parts)
        if made:
            self._last_entry = time.monotonic()
            whole = next((part for part in reversed(batch.parts) if part.last and part.events), None)
            if whole is not None:
                token = resume_token.to_text(whole.events[-1].token)
                self._newest = position.watermark(whole.position), token
        elif time.monotonic() - self._last_entry >= self._heartbeat:
            self._last_entry = time.monotonic()
            now = position.watermark(batch.progress)
            if self._log.head is None or now > self._log.head:
                self._log.extend([Entry(now, position.seconds(batch.progress) * 1000, 0, b"")])
        self._place = batch.progress
        self._hub.reached(batch.progress)
        if time.monotonic() - self._last_identity >= _IDENTITY:
            self._last_identity = time.monotonic()
            with suppress(SourceError, StoreError):  # the next time will do
                remember_identity(self._hub)
                self._hub.forget_outdated(position.watermark(batch.progress))

    def _checkpoint(self, *, now: bool = False) -> None:
        """Keep the resume token of the newest whole transaction: it tells this history from another one."""
        if self._newest is None or not (now or time.monotonic() - self._last_checkpoint >= _CHECKPOINT):
            return
        self._last_checkpoint = time.monotonic()
        try:
            self._hub.store.record_checkpoint(*self._newest)
        except StoreError as error:  # positions can be derived without it
            self._store_trouble.failed(error)
        else:
            self._newest = None
            self._store_trouble.recovered()

    def _progressed(self) -> None:
        self._progress_at = time.monotonic()
        self._alive_until = self._progress_at + _PATIENCE

    def _wait(self, seconds: float) -> None:
        self._alive_until = time.monotonic() + seconds + _PATIENCE
        self._stop.wait(seconds)
