"""A bounded queue between two threads that either side can close."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Generic, TypeVar

from zmsd.errors import Stopped, ZmsdError

T = TypeVar("T")


class Channel(Generic[T]):
    """Like queue.Queue, but a blocked put or get ends when the channel is closed (queue.shutdown of Python 3.13)."""

    def __init__(self, limit: int) -> None:
        self._items: deque[T] = deque()
        self.limit = limit
        self._changed = Condition()
        self._closed = False
        self._error: ZmsdError | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Waits while the channel is full. Raises Stopped."""
        with self._changed:
            while len(self._items) >= self.limit and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T | None:
        """The next item; None after ``timeout`` seconds. At the end raises what ``close`` was given, or Stopped."""
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
        """End it: items in it can still be taken, then ``error`` (the first one given) or Stopped is raised."""
        with self._changed:
            self._error = self._error or error
            self._closed = True
            self._changed.notify_all()
