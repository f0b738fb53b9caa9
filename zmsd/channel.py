"""A bounded queue (invariant 8) between two threads that either side can close."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Generic, TypeVar

from zmsd.errors import Stopped, ZmsdError

T = TypeVar("T")


class Channel(Generic[T]):
    """Like queue.Queue, but closing it ends a blocked put or get, as Queue.shutdown does from Python 3.13 on.

    Thread-safe.
    """

    def __init__(self, limit: int) -> None:
        """:param limit: most items that wait"""
        self._items: deque[T] = deque()
        self.limit = limit
        self._changed = Condition()
        self._closed = False
        self._error: ZmsdError | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add an item; wait while the channel is full. Raises Stopped once the channel is closed."""
        with self._changed:
            while len(self._items) >= self.limit and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T | None:
        """Return the next item, or None after ``timeout`` seconds.

        After the last item of a closed channel raises the error that ``close`` was given, or Stopped.
        """
        with self._changed:
            if not self._items and not self._closed:
                self._changed.wait_for(lambda: self._items or self._closed, timeout)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            if self._closed:
                raise Stopped
            return None

    def close(self, error: ZmsdError | None = None) -> None:
        """Close the channel: ``get`` returns the items in it, then raises the first error given, or Stopped."""
        with self._changed:
            self._error = self._error or error
            self._closed = True
            self._changed.notify_all()
