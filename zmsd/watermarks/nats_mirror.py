"""A mirror of key-value buckets that a server keeps, and the queue of what is to be written to them.

Reading is answered from here, with what is still in the queue laid over it; writing puts a Change into the queue. So
neither waits for the server unless it wants to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from threading import Condition
from typing import NamedTuple

from zmsd.errors import StoreError

QUEUED, QUEUED_PASSING = 10_000, 100
"""Writes that may wait for the server, and of those to buckets whose values go by themselves."""

Update = Callable[[bytes | None], bytes | None]
"""What becomes of a value; None is none. Asked again where another writer was faster or an answer was lost, so it must
not matter how often."""


class Change:
    """A write on its way. Without a key: everything older than what the mirror has goes."""

    __slots__ = ("bucket", "done", "key", "update")

    def __init__(self, bucket: str, key: str, update: Update) -> None:
        self.bucket = bucket
        self.key = key
        self.update = update
        self.done = False


class Stored(NamedTuple):
    """What the server has under a key."""

    revision: int
    value: bytes | None
    """None: it was deleted."""


class Mirror:
    """May be used from any thread."""

    def __init__(self, ages: Mapping[str, float | None]) -> None:
        """:param ages: bucket -> seconds after which its values go by themselves"""
        self.ages = dict(ages)
        self.wake: Callable[[], None] = lambda: None
        """Called when something was queued, with the lock held."""
        self._lock = Condition()
        self._stored: dict[str, dict[str, Stored]] = {bucket: {} for bucket in ages}
        self._purged = dict.fromkeys(ages, "")  # keys up to it are wanted no more, though the server may yet tell them
        self._queue: dict[Hashable, Change] = {}
        self._trouble: str | None = "connecting"
        self._loaded = False
        self._closed = False

    # FOR THOSE WHO READ AND WRITE

    @property
    def trouble(self) -> str | None:
        """Why the server cannot be used just now; None when it can."""
        return self._trouble

    @property
    def closed(self) -> bool:
        return self._closed

    def value(self, bucket: str, key: str) -> bytes | None:
        with self._lock:
            self._check_open()
            stored = self._stored[bucket].get(key)
            value = None if stored is None else stored.value
            for change in self._queue.values():
                if change.key == key and change.bucket == bucket:
                    value = change.update(value)
            return value

    def values(self, bucket: str) -> dict[str, bytes]:
        with self._lock:
            self._check_open()
            found = {key: stored.value for key, stored in self._stored[bucket].items()}
            for change in self._queue.values():
                if change.bucket == bucket:
                    found[change.key] = change.update(found.get(change.key))
            return {key: value for key, value in found.items() if value is not None}

    def change(self, name: Hashable, bucket: str, key: str, update: Update) -> Change:
        """Queue a write; it takes the place of one of the same name that is still queued. Of a bucket whose values go
        by themselves, only the newest stay queued. Raises StoreError when the queue is full."""
        change = Change(bucket, key, update)
        with self._lock:
            self._check_open()
            self._queue.pop(name, None)
            passing = [name for name, other in self._queue.items() if self.ages[other.bucket] is not None]
            for old in passing[:-QUEUED_PASSING]:
                del self._queue[old]
            if len(self._queue) >= QUEUED:
                raise StoreError(f"NATS has not taken anything for so long that {QUEUED} writes wait for it")
            self._queue[name] = change
            self.wake()
        return change

    def wait(self, change: Change, seconds: float, *, withdraw: bool = False) -> bool:
        """Whether the server has it by then; ``withdraw`` it where not."""
        with self._lock:
            done = self._lock.wait_for(lambda: change.done, seconds)
            if not done and withdraw:
                self._queue = {name: other for name, other in self._queue.items() if other is not change}
            return done

    def purge(self, bucket: str, keys: Collection[str]) -> None:
        """Forget the keys that sort first: without a trace, and on the server by and by."""
        with self._lock:
            self._check_open()
            self._purged[bucket] = max(keys)
            for key in keys:
                self._stored[bucket].pop(key, None)
            gone = [name for name, one in self._queue.items() if one.bucket == bucket and one.key in keys]
            for name in gone:
                del self._queue[name]
        self.change(("purge", bucket), bucket, "", lambda value: value)

    def wait_loaded(self, seconds: float) -> bool:
        with self._lock:
            return self._lock.wait_for(lambda: self._loaded, seconds)

    def close(self, seconds: float) -> int:
        """Wait so long for what is queued, then take and give nothing more; how many writes are left."""
        with self._lock:
            if not self._closed and self._trouble is None:
                self._lock.wait_for(lambda: not self._queue or self._trouble is not None, seconds)
            self._closed = True
            return len(self._queue)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the watermark store in NATS was closed")

    # FOR THE ONE THREAD THAT TALKS TO THE SERVER

    def failed(self, trouble: str) -> None:
        with self._lock:
            self._trouble = trouble
            self._lock.notify_all()

    def works(self) -> None:
        """All buckets have been loaded."""
        with self._lock:
            self._trouble, self._loaded = None, True
            self._lock.notify_all()

    def load(self, bucket: str, stored: dict[str, Stored]) -> None:
        """All that a bucket has."""
        with self._lock:
            self._stored[bucket] = {key: one for key, one in stored.items() if key > self._purged[bucket]}

    def saw(self, bucket: str, key: str, stored: Stored) -> bool:
        """Whether it is news."""
        with self._lock:
            known = self._stored[bucket].get(key)
            if (known is not None and known.revision >= stored.revision) or key <= self._purged[bucket]:
                return False
            self._stored[bucket][key] = stored
            return True

    def stored(self, bucket: str, key: str) -> Stored | None:
        return self._stored[bucket].get(key)

    def oldest(self, bucket: str) -> int:
        """The oldest revision that is here; 0 for none."""
        with self._lock:
            return min((stored.revision for stored in self._stored[bucket].values()), default=0)

    def next(self) -> tuple[Hashable, Change] | None:
        """The next write."""
        with self._lock:
            return next(iter(self._queue.items()), None)

    def done(self, name: Hashable, change: Change) -> None:
        with self._lock:
            if self._queue.get(name) is change:
                del self._queue[name]
            change.done = True
            self._lock.notify_all()
