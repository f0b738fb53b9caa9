"""Dispatcher: the thread that runs the live feed and appends its transactions to the change log."""

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
from zmsd.replication.throttled_write import ThrottledWrite
from zmsd.replication.unacknowledged import heartbeat_position
from zmsd.retry import REFUSED_WAIT_SECONDS, RetryLog, backoff

log = logging.getLogger(__name__)

SMALL_BATCH_ENTRIES, YIELD_SECONDS = 100, 0.0002
"""After a batch with fewer entries the dispatcher sleeps for so long, so that the sessions get the interpreter lock and
send the entries before the dispatcher's bookkeeping (bench/README.rst)."""
RECONNECT_ATTEMPTS = 2
"""Failed attempts to run a feed after which the connection to MongoDB is replaced."""
IDENTITY_INTERVAL_SECONDS = 60.0
"""Time between updates of the stored identity of the database, because collections are created and dropped."""
STALLED_SECONDS = 15.0
"""Seconds without progress after which /readyz reports that (invariant 9): longer than the deadline of a request, which
is retried, and shorter than the watchdog's."""
HANGING_SECONDS = 60.0
"""Seconds without progress after which the dispatcher counts as hanging. An idle feed makes progress every second."""


class Dispatcher:
    """Owns the live feed. Its methods run in its thread, except those that are documented as thread-safe."""

    def __init__(
        self,
        hub: Hub,
        prepare: Callable[[ActivePublication], int],
        open_feed: Callable[[ActivePublication, int], Feed],
        heartbeat: float,
        on_thread_death: Callable[[str], None],
    ) -> None:
        """:param prepare: prepares MongoDB for a publication and returns the position at which a feed may begin
        :param open_feed: opens the live feed after a position
        :param heartbeat: seconds without a transaction after which an empty one is appended, so that clients advance
        :param on_thread_death: called with the thread's name if the thread ends unexpectedly
        """
        self._hub = hub
        self._log = hub.log
        self._readiness = hub.readiness
        self._next: ActivePublication | None = None  # the publication of the next feed
        self._prepare = prepare
        self._open_feed = open_feed
        self._heartbeat = heartbeat
        self._on_thread_death = on_thread_death
        self._stop = Event()
        self._position: int | None = None  # everything up to it is in the log
        self._log_start = 0  # the position at which the log's history began
        self._last_entry = time.monotonic()
        self._last_identity = time.monotonic()
        # Positions can be resumed without a checkpoint, so a failed write loses nothing.
        self._checkpoint = ThrottledWrite[tuple[str, str]](
            lambda pair: hub.store.record_checkpoint(*pair), log, "keeping a checkpoint"
        )
        self._feed_log = RetryLog(log, "feed")
        self._reconnect_log = RetryLog(log, "connection renewal")
        self._waits = backoff()
        self._feed: Feed | None = None
        self._progress_at = time.monotonic()
        self._alive_until = self._progress_at + HANGING_SECONDS
        self.thread = Thread(target=self._run, name="dispatcher", daemon=True)

    @property
    def position(self) -> int | None:
        """Return the position up to which everything is in the log; None before the first feed. Thread-safe."""
        return self._position

    @property
    def progress_age(self) -> float:
        """Return the seconds since the feed last made progress. Thread-safe."""
        return time.monotonic() - self._progress_at

    @property
    def stalled(self) -> str | None:
        """Return what has kept the feed from progress for STALLED_SECONDS; None if nothing has. Thread-safe."""
        feed = self._feed
        waits = None if feed is None else feed.health.stalled(STALLED_SECONDS)
        if waits is not None or self.progress_age < STALLED_SECONDS:
            return waits
        return f"the dispatcher has made no progress for {self.progress_age:.0f} s"

    def stop(self) -> None:
        """End the feed and the thread. Thread-safe."""
        self._stop.set()

    def publish(self, active: ActivePublication) -> None:
        """Serve another publication from the next feed on. Thread-safe."""
        self._next = active

    def is_alive(self) -> bool:
        """Return whether the thread makes progress, or waits in a known retry; this feeds the watchdog. Thread-safe."""
        feed = self._feed
        quiet_deadline = 0.0 if feed is None else feed.health.quiet_deadline
        return self.thread.is_alive() and time.monotonic() < max(self._alive_until, quiet_deadline)

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        """Return reader -> (batches in its queue, the queue's limit). Thread-safe."""
        feed = self._feed
        return {} if feed is None else feed.queues

    @property
    def scope(self) -> str | None:
        """Return ``collection`` or ``database``: how the newest feed reads; None before the first feed. Thread-safe."""
        feed = self._feed
        return None if feed is None else feed.scope

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._run_feed()
                except Stopped:
                    break
                except ResumeLost as error:
                    # Each session finds out by itself, with its own watermark (invariant 6).
                    self._readiness.set(f"position lost, starting from now: {error}")
                    self._feed_log.failed(f"live position lost, starting from now: {error}", logging.ERROR)
                    self._position = None
                    self._checkpoint.discard()
                    self._wait(next(self._waits))
                except SourceError as error:
                    self._readiness.set(str(error))
                    self._hub.source.failures.inc()
                    level = logging.ERROR if isinstance(error, SourceRefused) else logging.WARNING
                    self._feed_log.failed(error, level)
                    if self._feed_log.attempts % RECONNECT_ATTEMPTS == 0:
                        self._reconnect(error)
                    self._wait(REFUSED_WAIT_SECONDS if isinstance(error, SourceRefused) else next(self._waits))
                except StoreError as error:  # the identity must be stored before a feed begins
                    self._readiness.set(str(error))
                    self._feed_log.failed(error, logging.ERROR)
                    self._wait(next(self._waits))
        except Exception:
            log.exception("dispatcher failed")
        finally:
            self._checkpoint.flush(now=True)
            self._readiness.set("stopping")
            if not self._stop.is_set():
                self._on_thread_death("dispatcher")

    def _reconnect(self, why: SourceError) -> None:
        """Replace the connection. If that fails too, as while a certificate file is replaced, report both errors."""
        try:
            self._hub.source.reconnect()
        except SourceError as error:
            self._reconnect_log.failed(error)
            self._readiness.set(f"{why}; the connection cannot be made again: {error}")
        else:
            self._reconnect_log.recovered()

    def _run_feed(self) -> None:
        """Run one feed, from preparing MongoDB to the feed's end.

        1. Write the pending checkpoint: the lineage checks search for its event.
        2. Prepare MongoDB and take a position (invariant 3). Images must be on before a position is taken, or events
           after it lack them.
        3. Check that the position reached so far still belongs to the database's history (invariant 5).
        4. Remove the parts of an unfinished transaction from the log: the feed will read the transaction again, from
           its start (invariant 2).
        5. Begin a new log generation if there is no position, or another publication. The sessions are evicted, look
           up their watermarks again, and take their clients to the publication. ``hub.active`` is replaced before the
           log starts, so a session never reads entries that are encoded for another publication.
        6. Open the feed after the position and append its batches. After each batch: check the lineage again if a
           reader has reconnected, update readiness, write a checkpoint.
        7. Return if another publication waits or the deployment has changed; then the next call prepares both. The
           feed is closed by this thread, which reads it. Raises Stopped, ResumeLost, SourceError and StoreError.
        """
        self._checkpoint.flush(now=True)
        active = self._next or self._hub.active
        recoveries = self._hub.source.recoveries.value()
        now = self._prepare(active)
        deployment = self._hub.source.deployment
        if self._position is not None:
            self._check_position()
        self._log.cut()
        if self._position is not None and self._log.head is not None:
            # A failed batch may have reached the log in part: continue after that part.
            self._position = max(self._position, position.parse(self._log.head)[0])
        if self._position is None or active is not self._hub.active:
            if self._position is None:
                self._position = self._log_start = now
            self._hub.active = active
            self._log.start(position.watermark(self._position), active.fingerprint)
        self._hub.problems.check(self._hub.source, active)
        builder = active.entry_builder(self._hub.counters.rows, self._mark_progress)
        self._mark_progress()
        with self._open_feed(active, self._position) as feed:
            self._feed = feed
            log.info(kv("feed runs", position=position.watermark(self._position), scope=feed.scope))
            while not self._stop.is_set():
                batch = feed.read()
                known, recoveries = recoveries, self._hub.source.recoveries.value()
                if recoveries != known:
                    # A reader has reconnected by itself. Meanwhile an older state may have been restored, or another
                    # version of MongoDB started.
                    self._hub.source.look()
                    self._checkpoint.flush(now=True)
                    self._hub.lineage.distrust()
                    self._check_position()
                problem = feed.health.problem
                if problem != self._readiness.reason:
                    self._readiness.set(problem)
                if batch is not None:
                    self._mark_progress()
                    if self._feed_log.attempts:
                        self._feed_log.recovered()
                        self._waits = backoff()
                    self._append(builder, batch, more=feed.has_buffered)
                self._checkpoint.flush()
                if self._next not in (None, active) or self._hub.source.deployment is not deployment:
                    return
            raise Stopped

    def _check_position(self) -> None:
        """Raise ResumeLost if the position does not belong to the database's history (invariant 5)."""
        assert self._position is not None
        self._hub.lineage.check_watermark(position.watermark(self._position), position.watermark(self._log_start))

    def _append(self, builder: EntryBuilder, batch: FeedBatch, *, more: bool) -> None:
        """Append a batch of the feed to the log, or a heartbeat if it is empty and one is due.

        :param more: another batch is buffered, so sessions need not wake for this one alone
        """
        made = False
        for entries in builder.entries(batch.parts):
            self._log.extend(entries, more=more)
            if len(entries) < SMALL_BATCH_ENTRIES and not more:
                time.sleep(YIELD_SECONDS)
            self._hub.counters.made(entries)
            made = True
        self._hub.counters.read(batch.parts)
        if made:
            self._last_entry = time.monotonic()
            whole = next((part for part in reversed(batch.parts) if part.last and part.events), None)
            if whole is not None:
                token = resume_token.to_text(whole.events[-1].token)
                self._checkpoint.put((position.watermark(whole.position), token))
        elif time.monotonic() - self._last_entry >= self._heartbeat:
            mark = position.watermark(heartbeat_position(batch.progress, self._heartbeat))
            if self._log.head is None or mark > self._log.head:
                self._last_entry = time.monotonic()
                self._log.extend([Entry(mark, position.seconds(batch.progress) * 1000, 0, b"")])
        self._position = batch.progress
        self._hub.probes.reached(batch.progress)
        if time.monotonic() - self._last_identity >= IDENTITY_INTERVAL_SECONDS:
            self._last_identity = time.monotonic()
            with suppress(SourceError, StoreError):  # retried after the interval
                remember_identity(self._hub.source, self._hub.store)
                self._hub.replicas.forget_outdated(position.watermark(batch.progress))

    def _mark_progress(self) -> None:
        """Note progress, for ``stalled`` and ``is_alive``."""
        self._progress_at = time.monotonic()
        self._alive_until = self._progress_at + HANGING_SECONDS

    def _wait(self, seconds: float) -> None:
        """Wait before a retry, or until stopped. The wait does not count as hanging."""
        self._alive_until = time.monotonic() + seconds + HANGING_SECONDS
        self._stop.wait(seconds)
