"""ChangeLog: the newest transactions, encoded once, bounded in bytes, for many readers at their own watermarks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition

from zmsd.errors import Evicted

LIMIT_BYTES = 64 << 20
"""Bytes of entries that are kept (invariant 8)."""
_NOTIFY_BYTES = 1 << 20
"""Bytes after which readers are woken although more entries follow at once."""
_ENTRY_BYTES = 400
"""Estimated bytes of an entry besides its frames."""


@dataclass(slots=True)  # not frozen: a frozen dataclass is slower to create
class Entry:
    """A transaction, or a part of a large one. Immutable by convention, because all readers share it."""

    watermark: str
    commit_ms: int
    rows: int
    frames: bytes
    """Data messages for all clients."""
    ends_transaction: bool = True
    """Whether the transaction ends with this entry."""
    shard_frames: Mapping[str, bytes] | None = None
    """Data messages for the clients of one shard only (``app_0``)."""
    resynced_to: str | None = None
    """A table in this entry was reread as of this later watermark, and its changes up to there are left out."""
    size: int = field(init=False)
    """Bytes; every reader needs it, so it is computed once."""

    def __post_init__(self) -> None:
        extra = sum(map(len, self.shard_frames.values())) if self.shard_frames else 0
        self.size = len(self.frames) + extra + _ENTRY_BYTES


class ChangeLog:
    """The log of one process. One thread writes (``start``, ``extend``, ``cut``); the rest is thread-safe.

    Each reader has a LogCursor of its own. Entries are numbered, and ``_first_number`` is the number of the oldest one
    in the log. ``start`` and ``cut`` remove entries that readers may have taken: that begins a new generation, and the
    cursors of older generations raise Evicted.
    """

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self._limit = limit
        self._changed = Condition()
        self._entries: list[Entry] = []
        self._first_number = 0
        self._generation = 0
        self._size = 0
        self._unnotified_bytes = 0  # bytes appended since readers were last woken
        self._oldest: str | None = None
        self._fingerprint = ""
        self._head: str | None = None
        self._last_complete: str | None = None  # watermark of the newest complete transaction
        self._resync_gaps: list[tuple[str, str]] = []
        """(first, end): a reader that begins between them may lack the resync at the first watermark, and the log lacks
        the table's changes up to the second."""
        self._closed = False

    @property
    def head(self) -> str | None:
        """Return the newest watermark; None before the first start."""
        return self._head

    @property
    def size(self) -> int:
        """Return the bytes that the log holds."""
        return self._size

    def start(self, floor: str, fingerprint: str) -> None:
        """Begin a new generation after a watermark, without entries.

        :param floor: watermark after which the entries follow
        :param fingerprint: of the publication that the entries are encoded for
        """
        with self._changed:
            self._generation += 1
            self._entries = []
            self._resync_gaps = []
            self._size = 0
            self._oldest = self._head = self._last_complete = floor
            self._fingerprint = fingerprint
            self._changed.notify_all()

    def extend(self, entries: Sequence[Entry], *, more: bool = False) -> None:
        """Append entries.

        Raises AssertionError if watermarks do not rise (invariant 1), or if another transaction begins inside an open
        one (invariant 2): clients must not see such a bug.

        :param more: further entries follow at once, so waiting readers wake only after _NOTIFY_BYTES
        """
        with self._changed:
            for entry in entries:
                open_part = bool(self._entries) and not self._entries[-1].ends_transaction
                assert self._head is not None, "the log was not started"
                assert entry.watermark == self._head if open_part else entry.watermark > self._head, (
                    f"watermark {entry.watermark} after {self._head}"
                )
                self._entries.append(entry)
                self._size += entry.size
                self._head = entry.watermark
                if entry.resynced_to is not None:
                    self._resync_gaps.append((entry.watermark, entry.resynced_to))
                if entry.ends_transaction:
                    self._last_complete = entry.watermark
            if self._size > self._limit:
                self._trim()
            self._unnotified_bytes += sum([entry.size for entry in entries])
            if not more or self._unnotified_bytes >= _NOTIFY_BYTES:
                self._unnotified_bytes = 0
                self._changed.notify_all()

    def cut(self) -> None:
        """Remove the parts of an unfinished transaction (invariant 2): its feed failed, and the next feed reads all of
        it again."""
        with self._changed:
            kept = len(self._entries)
            while kept and not self._entries[kept - 1].ends_transaction:
                kept -= 1
            if kept == len(self._entries):
                return
            cut = self._entries[kept:]
            self._entries = self._entries[:kept]
            self._size -= sum(entry.size for entry in cut)
            # If its first parts were trimmed, the oldest watermark was inside it. It will be appended again completely.
            self._head = self._last_complete
            self._oldest = min(str(self._oldest), str(self._last_complete))
            self._generation += 1
            self._changed.notify_all()

    def tail(self, after: str, fingerprint: str) -> LogCursor | None:
        """Return a cursor at the first transaction above a watermark; None if the log lacks changes after it.

        Raises Evicted if the log is for another publication.
        """
        with self._changed:
            if self._oldest is not None and fingerprint != self._fingerprint:
                raise Evicted
            if (
                self._oldest is None
                or after < self._oldest
                or any(first <= after < end for first, end in self._resync_gaps)
            ):
                return None
            index = bisect_right(self._entries, after, key=lambda entry: entry.watermark)
            return LogCursor(self, self._generation, self._first_number + index, after)

    def behind(self, after: str) -> tuple[int, int] | None:
        """Return the number of entries above a watermark, and the commit time of the first (ms since the epoch).

        Return None if the log begins later.
        """
        with self._changed:
            if self._oldest is None or after < self._oldest:
                return None
            index = bisect_right(self._entries, after, key=lambda entry: entry.watermark)
            count = len(self._entries) - index
            return count, self._entries[index].commit_ms if count else 0

    def wait(self, seconds: float) -> None:
        """Wait until something changes, or some seconds."""
        with self._changed:
            if not self._closed:
                self._changed.wait(seconds)

    def close(self) -> None:
        """Wake all readers; they get no further entries."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, generation: int, number: int, rows: int, size: int, timeout: float) -> list[Entry]:
        """Return entries from a number on, until the limits are reached. For LogCursor. Raises Evicted."""
        with self._changed:
            if (
                number == self._first_number + len(self._entries)
                and generation == self._generation
                and not self._closed
            ):
                self._changed.wait(timeout)
            index = number - self._first_number
            if generation != self._generation or index < 0:
                raise Evicted
            taken: list[Entry] = []
            for entry in self._entries[index : index + max(rows, 0)]:  # each counts as one row at least
                if rows <= 0 or size <= 0:
                    break
                taken.append(entry)
                rows -= entry.rows or 1
                size -= entry.size
            return taken

    def _trim(self) -> None:
        """Remove the oldest entries: a quarter of the limit at once, because removing moves the rest of the list."""
        count = 0
        while self._size > self._limit * 3 // 4 and count < len(self._entries) - 1:
            self._size -= self._entries[count].size
            count += 1
        self._oldest = floor = self._entries[count - 1].watermark
        self._resync_gaps = [gap for gap in self._resync_gaps if gap[1] > floor]
        del self._entries[:count]
        self._first_number += count


class LogCursor:
    """One reader's position in the log. Owned by one thread."""

    def __init__(self, log: ChangeLog, generation: int, number: int, after: str) -> None:
        self._log = log
        self._generation = generation
        self._number = number
        # The log may be behind its reader: a catch-up feed or another daemon was ahead of it.
        self._after: str | None = after

    def take(self, rows: int, size: int, timeout: float) -> list[Entry]:
        """Return the next entries, about ``rows`` rows or ``size`` bytes, after at most ``timeout`` seconds.

        Raises Evicted.
        """
        taken = self._log.take(self._generation, self._number, rows, size, timeout)
        self._number += len(taken)
        if self._after is not None and taken:
            known = bisect_right(taken, self._after, key=lambda entry: entry.watermark)
            if any((entry.resynced_to or "") > self._after for entry in taken[:known]):
                raise Evicted  # the reader begins inside a resync gap
            self._after = None if known < len(taken) else self._after
            return taken[known:]
        return taken

    def close(self) -> None:
        """Do nothing: a cursor holds nothing that must be released."""
