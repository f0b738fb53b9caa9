"""What every reader of a change stream shares: it survives what heals, and says so."""

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
    Stopped,
    TokenUnfit,
)
from zmsd.mongodb import resume_token
from zmsd.mongodb.change_cursor import AWAIT_MS, Batch, ChangeCursor
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.pipelines import ORDER_ONLY, match_collections
from zmsd.mongodb.producer import Producer
from zmsd.mongodb.source import Source
from zmsd.prometheus import Counter
from zmsd.retry import REFUSED_WAIT_SECONDS, RetryLog, backoff

log = logging.getLogger(__name__)

CHANNEL_BATCHES = 2
"""Batches that wait between a reader and the sequencer. A full channel stops the reader's getMore: the oplog is the
buffer."""
_STEP = 60.0
"""Seconds that a try may take."""
_OPENING = 1800.0
"""Seconds that opening a stream may take: the server scans the oplog up to an old position, 2.2 µs an entry."""


_FEW = 100
_PAUSE = 0.001
"""Seconds after a batch of so few events: asking for the next one at once would keep the interpreter from those who
have to send these on, for 0.3 of 1.2 ms."""
_GIVE_UP = 10.0
"""Seconds for which a reader tries by itself: an election takes less."""


class Health:
    """Which readers are in trouble, and why, and which have reason to be silent; shared by all readers of a feed."""

    def __init__(self, failures: Counter | None = None, recoveries: Counter | None = None) -> None:
        """:param failures: counts every failed try
        :param recoveries: counts the times that a reader goes on after one, before anyone has what it has read since
        """
        self._lock = Lock()
        self._problems: dict[str, str] = {}
        self._quiet_deadlines: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._error: SourceError | None = None
        self._failures = failures or Counter()
        self._recoveries = recoveries or Counter()

    def opening(self, name: str) -> None:
        """A reader opens its stream."""
        with self._lock:
            self._quiet_deadlines[name] = time.monotonic() + _OPENING

    def asks(self, name: str) -> None:
        """A reader sends a request."""
        self._asked[name] = time.monotonic()

    def answered(self, name: str) -> None:
        """A reader has its answer, or knows that it gets none."""
        self._asked.pop(name, None)

    def stalled(self, seconds: float) -> str | None:
        """Which readers have waited for an answer for at least so many seconds; None: no reader has. Thread-safe."""
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
        """A reader's try has failed; the next one is after ``wait`` seconds."""
        self._failures.inc()
        with self._lock:
            self._problems[name] = text
            self._quiet_deadlines[name] = time.monotonic() + wait + _STEP

    def recovered(self) -> None:
        """A reader goes on after a failure."""
        self._recoveries.inc()

    def succeeded(self, name: str) -> None:
        """A reader has got a batch."""
        with self._lock:
            self._problems.pop(name, None)
            self._quiet_deadlines.pop(name, None)

    def failed_for_good(self, error: SourceError) -> None:
        """A reader's thread is at its end."""
        self._error = error

    def check(self) -> None:
        """Raises what has ended a reader: no event of an idle collection would ask for its channel and tell it."""
        if self._error is not None:
            raise self._error

    @property
    def quiet_deadline(self) -> float:
        """Monotonic seconds until which some reader may have nothing to say, although it does not hang."""
        with self._lock:
            return max(self._quiet_deadlines.values(), default=0.0)

    @property
    def problem(self) -> str | None:
        with self._lock:
            return "; ".join(f"{name}: {text}" for name, text in sorted(self._problems.items())) or None


class Reader:
    """Reads one change stream from its position on, for ever. One thread calls ``step`` and ``close``."""

    def __init__(self, name: str, cursor: ChangeCursor, stop: Event, health: Health) -> None:
        self.name = name
        self.health = health
        self._cursor = cursor
        self._stop = stop
        self._backoff = backoff()
        self._repeated = RetryLog(log, f"change stream {name}")
        self._failing_since = 0.0  # monotonic seconds
        self._few = False  # events came last, and not many

    @property
    def has_buffered(self) -> bool:
        """There are events for which the next step does not have to ask."""
        return self._cursor.has_buffered

    def read_batch(self, wait_ms: int = AWAIT_MS) -> Batch | None:
        """The next batch, perhaps empty; None when this try failed and has waited for the next one.

        Raises ResumeLost, which no waiting heals; OptionRefused, after which other options are to be tried; and what
        has failed for so long, or in such a way, that another database may be there by now: who begins again looks at
        that first.
        """
        if self._few and wait_ms == AWAIT_MS and not self.has_buffered:
            self._stop.wait(_PAUSE)
        opens = not self._cursor.is_open
        if opens:
            self.health.opening(self.name)
        self.health.asks(self.name)
        try:
            batch = self._read(wait_ms)
        except (ResumeLost, TokenUnfit, OptionRefused):
            raise
        except SourceError as error:
            self._failed(error)
            return None
        finally:
            self.health.answered(self.name)
        if batch.events and batch.events[-1].kind == "invalidate":
            # It ends a stream, and its cause stands before it: begin again behind it.
            self._cursor.reopen_after(resume_token.position_of(batch.events.pop().token))
        self._fill(batch.events)
        self._few = 0 < len(batch.events) < _FEW
        if opens or self._repeated.attempts:
            self._recovered()
        return batch

    def close(self) -> None:
        self._cursor.close()

    def _read(self, wait_ms: int) -> Batch:
        return self._cursor.read(wait_ms)

    def fill(self, events: list[ChangeEvent]) -> None:
        """Complete a batch's events in place, before anyone sees them. For the readers of content."""

    def _fill(self, events: list[ChangeEvent]) -> None:
        """Tried until it works: the cursor has moved on, and reading again would not bring these events."""
        while events:
            self.health.asks(self.name)
            try:
                self.fill(events)
                return
            except SourceError as error:
                if self._stop.is_set():
                    raise Stopped from error
                self._failed(error)
            finally:
                self.health.answered(self.name)

    def _failed(self, error: SourceError) -> None:
        """Say it, and wait before the next try. Raises the error if failures have lasted, except when the server itself
        reports that it needs longer: then it is the same server, and a new reader would begin with a short deadline."""
        self.health.answered(self.name)
        if not self._stop.is_set():
            wait = REFUSED_WAIT_SECONDS if isinstance(error, SourceRefused) else next(self._backoff)
            if not self._repeated.attempts:
                self._failing_since = time.monotonic()
            self._repeated.failed(error)
            self.health.failed(self.name, str(error), wait)
            busy = isinstance(error, SourceTimeout) and error.busy
            if not busy and time.monotonic() - self._failing_since > _GIVE_UP:
                raise error
            self._stop.wait(wait)

    def _recovered(self) -> None:
        if self._repeated.attempts:
            self.health.recovered()
        self._repeated.recovered()
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


def reader_thread(reader: Reader, stop: Event, *, keep_empty: bool) -> Producer[Batch]:
    """Return the thread of a reader, not started, with the channel that it fills. The thread closes the reader.

    :param stop: ends the thread
    :param keep_empty: pass on batches without events, for the progress in their tokens
    """
    batches = _batches(reader, stop, keep_empty=keep_empty)
    return Producer(reader.name, batches, CHANNEL_BATCHES, reader.health.failed_for_good)


def _batches(reader: Reader, stop: Event, *, keep_empty: bool) -> Generator[Batch, None, None]:
    with closing(reader):
        while not stop.is_set():
            batch = reader.read_batch()
            if batch is not None and (batch.events or keep_empty):
                yield batch
