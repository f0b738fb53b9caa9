"""Readers of change streams: they retry transient errors at the same position, and report them."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from threading import Event, Lock

from zmsd.errors import (
    OptionRefused,
    ResumeLost,
    SourceError,
    SourceRefused,
    SourceTimeout,
    TokenUnfit,
)
from zmsd.mongodb import resume_token
from zmsd.mongodb.change_cursor import AWAIT_MS, Batch, ChangeCursor
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.pipelines import ORDER_ONLY, match_collections
from zmsd.mongodb.producer import Producer
from zmsd.mongodb.read_pause import ReadPause
from zmsd.mongodb.source import Source
from zmsd.prometheus import Counter
from zmsd.retry import REFUSED_WAIT_SECONDS, RetryLog, backoff

log = logging.getLogger(__name__)

CHANNEL_BATCHES = 2
"""Batches that wait between a reader and the sequencer. A full channel stops the reader's getMore: the oplog is the
buffer."""
_ATTEMPT_SECONDS = 60.0
"""Seconds that an attempt may take before the reader counts as hanging."""
_OPENING_SECONDS = 1800.0
"""Seconds that opening a stream may take: the server scans the oplog up to an old position (bench/README.rst)."""
_LONGEST_WAIT_SECONDS = 1.0
"""Longest wait in one call: the dispatcher reports a failure, and notices a stop, between two of them."""
_GIVE_UP_SECONDS = 10.0
"""Seconds for which a reader retries by itself: an election takes less."""


class Health:
    """Which readers of a feed fail, and why, and which have a reason to be quiet (invariant 9). Thread-safe."""

    def __init__(self, failures: Counter | None = None, recoveries: Counter | None = None) -> None:
        """:param failures: counts every failed attempt
        :param recoveries: counts each recovery of a reader, before any event that it read after the failure is returned
        """
        self._lock = Lock()
        self._problems: dict[str, str] = {}
        self._quiet_deadlines: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._error: SourceError | None = None
        self._failures = failures or Counter()
        self._recoveries = recoveries or Counter()

    def opening(self, name: str) -> None:
        """Record that a reader opens its stream."""
        with self._lock:
            self._quiet_deadlines[name] = time.monotonic() + _OPENING_SECONDS

    def asks(self, name: str) -> None:
        """Record that a reader sends a request."""
        self._asked[name] = time.monotonic()

    def answered(self, name: str) -> None:
        """Record that a reader has its reply, or an error instead."""
        self._asked.pop(name, None)

    def stalled(self, seconds: float) -> str | None:
        """Return which readers have waited for a reply for at least ``seconds``, or None."""
        now = time.monotonic()
        waits = {name: now - since for name, since in self._asked.copy().items() if now - since >= seconds}
        with self._lock:
            texts = [
                f"{name}: MongoDB has been scanning its oplog for {waited:.0f} s to open the change stream"
                if name in self._quiet_deadlines
                else f"{name}: MongoDB has not answered for {waited:.0f} s"
                for name, waited in sorted(waits.items())
            ]
        return "; ".join(texts) or None

    def failed(self, name: str, text: str, wait: float) -> None:
        """Record a failed attempt. The next attempt follows after ``wait`` seconds."""
        self._failures.inc()
        with self._lock:
            self._problems[name] = text
            self._quiet_deadlines[name] = time.monotonic() + wait + _ATTEMPT_SECONDS

    def recovered(self) -> None:
        """Count that a reader continues after a failure."""
        self._recoveries.inc()

    def succeeded(self, name: str) -> None:
        """Record that a reader has received a batch."""
        with self._lock:
            self._problems.pop(name, None)
            self._quiet_deadlines.pop(name, None)

    def failed_for_good(self, error: SourceError) -> None:
        """Record the error that has ended a reader's thread."""
        self._error = error

    def check(self) -> None:
        """Raise the error that has ended a reader, also of an idle collection, whose channel is not read."""
        if self._error is not None:
            raise self._error

    @property
    def quiet_deadline(self) -> float:
        """Monotonic seconds until which some reader may return nothing although it does not hang."""
        with self._lock:
            return max(self._quiet_deadlines.values(), default=0.0)

    @property
    def problem(self) -> str | None:
        """Readers that fail, and why; None if all succeed."""
        with self._lock:
            return "; ".join(f"{name}: {text}" for name, text in sorted(self._problems.items())) or None


class Reader:
    """Reads one change stream from its position on, without an end. For one thread."""

    def __init__(self, name: str, cursor: ChangeCursor, stop: Event, health: Health) -> None:
        self.name = name
        self.health = health
        self._cursor = cursor
        self._stop = stop
        self._backoff = backoff()
        self._retry_log = RetryLog(log, f"change stream {name}")
        self._failing_since = 0.0  # monotonic seconds
        self._retry_at = 0.0  # monotonic seconds
        self._pause = ReadPause()
        self._unfilled: Batch | None = None  # received and not completed yet; the cursor would not return it again

    @property
    def has_buffered(self) -> bool:
        """Whether the next batch has been received."""
        return self._unfilled is not None or self._cursor.has_buffered

    def read_batch(self, wait_ms: int = AWAIT_MS) -> Batch | None:
        """Return the next batch, perhaps empty; None after a failed attempt, and for each second before the next one.

        Raises ResumeLost and TokenUnfit, which do not pass by waiting; OptionRefused, after which the caller chooses
        other options; and an error that has lasted so long that the server may have another database by now: before
        the caller begins again, it checks the lineage.

        :param wait_ms: milliseconds to wait for events
        """
        if (wait := self._retry_at - time.monotonic()) > 0:
            stopped = self._stop.wait(min(wait, _LONGEST_WAIT_SECONDS))
            if stopped or wait > _LONGEST_WAIT_SECONDS:
                return None
        if wait_ms == AWAIT_MS and not self.has_buffered:
            self._stop.wait(self._pause.seconds)
        opens = not self._cursor.is_open
        if opens:
            self.health.opening(self.name)
        self.health.asks(self.name)
        try:
            batch = self._unfilled = self._unfilled or self._receive(wait_ms)
            if batch.events:
                self.fill(batch.events)
        except (ResumeLost, TokenUnfit, OptionRefused):
            raise
        except SourceError as error:
            self._failed(error)
            return None
        finally:
            self.health.answered(self.name)
        self._unfilled = None
        if batch.events or wait_ms == AWAIT_MS:  # not the question whether a transaction goes on
            self._pause.received(len(batch.events))
        if opens or self._retry_log.attempts:
            self._recovered()
        return batch

    def close(self) -> None:
        """End the stream on the server. Never raises."""
        self._cursor.close()

    def _read(self, wait_ms: int) -> Batch:
        return self._cursor.read(wait_ms)

    def fill(self, events: list[ChangeEvent]) -> None:
        """Complete the events of a batch in place, before they are returned. Overridden by readers of content."""

    def _receive(self, wait_ms: int) -> Batch:
        batch = self._read(wait_ms)
        if batch.events and batch.events[-1].kind == "invalidate":
            # It ends the stream; the event that caused it comes before it. Continue after it.
            self._cursor.reopen_after(resume_token.position_of(batch.events.pop().token))
        return batch

    def _failed(self, error: SourceError) -> None:
        """Report the error, and set the time of the next attempt. Raises the error if failures have lasted.

        It does not raise when the server itself reports that it needs longer: then the server is the same, and a new
        reader would begin with a short deadline.
        """
        if self._stop.is_set():
            return
        wait = REFUSED_WAIT_SECONDS if isinstance(error, SourceRefused) else next(self._backoff)
        if not self._retry_log.attempts:
            self._failing_since = time.monotonic()
        self._retry_log.failed(error)
        self.health.failed(self.name, str(error), wait)
        busy = isinstance(error, SourceTimeout) and error.busy
        if not busy and time.monotonic() - self._failing_since > _GIVE_UP_SECONDS:
            raise error
        self._retry_at = time.monotonic() + wait

    def _recovered(self) -> None:
        if self._retry_log.attempts:
            self.health.recovered()
        self._retry_log.recovered()
        self._backoff = backoff()
        self.health.succeeded(self.name)


class OrderReader(Reader):
    """Reads one stream over the database that carries only the names of the collections, in the order of their events.

    With it, N collection streams give one total order without waiting for an idle collection. It also tells the end of
    a transaction: on a replica set, a batch below its batchSize ended because no further event was visible, and all
    events of a transaction become visible at once.
    """

    def __init__(self, source: Source, collections: Iterable[str], after: int, stop: Event, health: Health) -> None:
        """:param after: the position after which it begins"""
        stages = [match_collections(collections), ORDER_ONLY]
        super().__init__("order", ChangeCursor(source, None, after, stages), stop, health)


def reader_thread(reader: Reader, stop: Event) -> Producer[Batch]:
    """Return the thread of a reader, not started, with the channel that it fills with batches that have events.

    The thread closes the reader.

    :param stop: ends the thread
    """
    return Producer(reader.name, _batches(reader, stop), CHANNEL_BATCHES, reader.health.failed_for_good)


def _batches(reader: Reader, stop: Event) -> Generator[Batch, None, None]:
    with closing(reader):
        while not stop.is_set():
            batch = reader.read_batch()
            if batch is not None and batch.events:
                yield batch
