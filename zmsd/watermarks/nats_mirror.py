"""A mirror of a server's key-value buckets, and the queue of writes to them.

Reads are answered from the mirror with the queued writes applied; a write queues a Change. So neither waits for the
server unless the caller asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from threading import Condition
from typing import NamedTuple

from zmsd.errors import StoreError

QUEUED, QUEUED_PASSING = 10_000, 100
"""Maximum number of queued writes, and of those to buckets whose values expire."""

Update = Callable[[bytes | None], bytes | None]
"""Old value -> new value; None: absent. Called again if another writer was faster or an answer was lost, so it must be
idempotent."""


class Change:
    """A queued write. Without a key it purges everything older than what the mirror has."""

    __slots__ = ("bucket", "done", "key", "update")

    def __init__(self, bucket: str, key: str, update: Update) -> None:
        self.bucket = bucket
        self.key = key
        self.update = update
        self.done = False


class Stored(NamedTuple):
    """A key's newest revision on the server."""

    revision: int
    value: bytes | None
    """None: the key was deleted."""


class Mirror:
    """The mirror and its queue. Thread-safe; the methods of the second half are for the thread of the connection."""

    def __init__(self, ages: Mapping[str, float | None]) -> None:
        """:param ages: bucket -> seconds after which the server drops its values; None: never"""
        self.ages = dict(ages)
        self.wake: Callable[[], None] = lambda: None
        """Called with the lock held when a write was queued."""
        self._lock = Condition()
        self._stored: dict[str, dict[str, Stored]] = {bucket: {} for bucket in ages}
        self._purged = dict.fromkeys(
            ages, ""
        )  # keys up to this one are dropped, though the server may still deliver them
        self._queue: dict[Hashable, Change] = {}
        self._trouble: str | None = "connecting"
        self._loaded = False
        self._closed = False

    # Methods for readers and writers

    @property
    def trouble(self) -> str | None:
        """Return why the server cannot be used at present, or None."""
        return self._trouble

    @property
    def closed(self) -> bool:
        """Return whether ``close`` was called."""
        return self._closed

    def value(self, bucket: str, key: str) -> bytes | None:
        """Return the value of a key with the queued writes applied; None if it is absent. Raises StoreError."""
        with self._lock:
            self._check_open()
            stored = self._stored[bucket].get(key)
            value = None if stored is None else stored.value
            for change in self._queue.values():
                if change.key == key and change.bucket == bucket:
                    value = change.update(value)
            return value

    def values(self, bucket: str) -> dict[str, bytes]:
        """Return all keys of a bucket with their values, the queued writes applied. Raises StoreError."""
        with self._lock:
            self._check_open()
            found = {key: stored.value for key, stored in self._stored[bucket].items()}
            for change in self._queue.values():
                if change.bucket == bucket:
                    found[change.key] = change.update(found.get(change.key))
            return {key: value for key, value in found.items() if value is not None}

    def change(self, name: Hashable, bucket: str, key: str, update: Update) -> Change:
        """Queue a write. It replaces a queued write of the same name.

        Of writes to a bucket whose values expire, only the newest stay queued. Raises StoreError if the queue is full.
        """
        change = Change(bucket, key, update)
        with self._lock:
            self._check_open()
            self._queue.pop(name, None)
            passing = [name for name, other in self._queue.items() if self.ages[other.bucket] is not None]
            for old in passing[:-QUEUED_PASSING]:
                del self._queue[old]
            if len(self._queue) >= QUEUED:
                raise StoreError(f"{QUEUED} writes are queued for NATS, which does not take them: check NATS")
            self._queue[name] = change
            self.wake()
        return change

    def wait(self, change: Change, seconds: float, *, withdraw: bool = False) -> bool:
        """Return whether the server has a write within some seconds; if not, ``withdraw`` removes it from the queue."""
        with self._lock:
            done = self._lock.wait_for(lambda: change.done, seconds)
            if not done and withdraw:
                self._queue = {name: other for name, other in self._queue.items() if other is not change}
            return done

    def purge(self, bucket: str, keys: Collection[str]) -> None:
        """Drop the keys that sort first: here at once, on the server when the queue is written."""
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
        """Return whether all buckets have been loaded, within some seconds."""
        with self._lock:
            return self._lock.wait_for(lambda: self._loaded, seconds)

    def close(self, seconds: float) -> int:
        """Wait for the queue to be written, then refuse all further use. Return the number of unwritten changes."""
        with self._lock:
            if not self._closed and self._trouble is None:
                self._lock.wait_for(lambda: not self._queue or self._trouble is not None, seconds)
            self._closed = True
            return len(self._queue)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the watermark store in NATS was closed")

    # Methods for the thread of the connection

    def failed(self, trouble: str) -> None:
        """Set why the server cannot be used."""
        with self._lock:
            self._trouble = trouble
            self._lock.notify_all()

    def works(self) -> None:
        """Report that all buckets have been loaded."""
        with self._lock:
            self._trouble, self._loaded = None, True
            self._lock.notify_all()

    def load(self, bucket: str, stored: dict[str, Stored]) -> None:
        """Replace everything that the mirror has of a bucket."""
        with self._lock:
            self._stored[bucket] = {key: one for key, one in stored.items() if key > self._purged[bucket]}

    def saw(self, bucket: str, key: str, stored: Stored) -> bool:
        """Take over a revision from the server. Return whether it was newer than the mirror's."""
        with self._lock:
            known = self._stored[bucket].get(key)
            if (known is not None and known.revision >= stored.revision) or key <= self._purged[bucket]:
                return False
            self._stored[bucket][key] = stored
            return True

    def stored(self, bucket: str, key: str) -> Stored | None:
        """Return what the server has under a key, without queued writes."""
        return self._stored[bucket].get(key)

    def oldest(self, bucket: str) -> int:
        """Return the oldest revision in the mirror of a bucket; 0 if it is empty."""
        with self._lock:
            return min((stored.revision for stored in self._stored[bucket].values()), default=0)

    def next(self) -> tuple[Hashable, Change] | None:
        """Return the name and the change of the next write; None if the queue is empty."""
        with self._lock:
            return next(iter(self._queue.items()), None)

    def done(self, name: Hashable, change: Change) -> None:
        """Remove a write that the server has from the queue, and wake those that wait for it."""
        with self._lock:
            if self._queue.get(name) is change:
                del self._queue[name]
            change.done = True
            self._lock.notify_all()
