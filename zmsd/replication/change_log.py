"""ChangeLog: what happened lately, encoded once, bounded in bytes, for many readers who are each at their own place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition

from zmsd.errors import Evicted

LIMIT = 64 << 20
"""Bytes of frames that are kept."""
_ENOUGH = 1 << 20
"""Bytes for which readers are woken although more follow at once."""
_ENTRY_BYTES = 400
"""What an entry costs besides its frames."""


@dataclass(slots=True)  # frozen ones take 1 µs more to make
class Entry:
    """A transaction, or a part of a large one. Never changed."""

    watermark: str
    commit_ms: int
    rows: int
    frames: bytes
    """Its data messages, the same for all clients."""
    last: bool = True
    """The transaction ends here."""
    shard_frames: Mapping[str, bytes] | None = None
    """Data messages for the clients of one shard only (``app_0``)."""
    ahead_to: str | None = None
    """A table's rows are given as of this later watermark, and what happens to it up to there is not told again."""
    size: int = field(init=False)
    """Bytes; asked for by every reader, so counted once."""

    def __post_init__(self) -> None:
        extra = sum(map(len, self.shard_frames.values())) if self.shard_frames else 0
        self.size = len(self.frames) + extra + _ENTRY_BYTES


class ChangeLog:
    """One thread writes (``start``, ``extend``, ``cut``), any number of threads read through a Tail of their own.

    Entries are numbered; ``_base`` is the number of the first that is kept. What was promised to readers can be taken
    back (``start``, ``cut``): that begins a new generation, and the readers of older ones are overrun.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._changed = Condition()
        self._entries: list[Entry] = []
        self._base = 0
        self._generation = 0
        self._size = 0
        self._unsaid = 0  # bytes that no reader was woken for
        self._floor: str | None = None
        self._fingerprint = ""
        self._head: str | None = None
        self._whole: str | None = None  # the newest transaction whose end is in
        self._gaps: list[tuple[str, str]] = []
        """Who begins between these watermarks may not have got the first one's entry, and lacks what comes up to the
        second."""
        self._closed = False

    @property
    def head(self) -> str | None:
        """The newest watermark; None before the first start."""
        return self._head

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self._size

    def start(self, floor: str, fingerprint: str) -> None:
        """Begin (again) after a watermark: what was kept is forgotten.

        :param edition: fingerprint of what the entries are encoded for
        """
        with self._changed:
            self._generation += 1
            self._entries = []
            self._gaps = []
            self._size = 0
            self._floor = self._head = self._whole = floor
            self._fingerprint = fingerprint
            self._changed.notify_all()

    def extend(self, entries: Sequence[Entry], *, more: bool = False) -> None:
        """Append in order. Raises AssertionError where watermarks would not rise: a bug that no client may see.

        :param more: others follow at once, and readers that wait need not wake before there is more for them to do
        """
        with self._changed:
            for entry in entries:
                open_part = bool(self._entries) and not self._entries[-1].last
                assert self._head is not None, "the log was not started"
                assert entry.watermark == self._head if open_part else entry.watermark > self._head, (
                    f"watermark {entry.watermark} after {self._head}"
                )
                self._entries.append(entry)
                self._size += entry.size
                self._head = entry.watermark
                if entry.ahead_to is not None:
                    self._gaps.append((entry.watermark, entry.ahead_to))
                if entry.last:
                    self._whole = entry.watermark
            if self._size > self._limit:
                self._trim()
            self._unsaid += sum([entry.size for entry in entries])
            if not more or self._unsaid >= _ENOUGH:
                self._unsaid = 0
                self._changed.notify_all()

    def cut(self) -> None:
        """Take back the parts of a transaction whose end never came: its feed failed and will bring it again."""
        with self._changed:
            kept = len(self._entries)
            while kept and not self._entries[kept - 1].last:
                kept -= 1
            if kept == len(self._entries):
                return
            cut = self._entries[kept:]
            self._entries = self._entries[:kept]
            self._size -= sum(entry.size for entry in cut)
            # With its first parts trimmed off, the floor stood inside of it; it will come again, whole.
            self._head = self._whole
            self._floor = min(str(self._floor), str(self._whole))
            self._generation += 1
            self._changed.notify_all()

    def tail(self, after: str, fingerprint: str) -> Tail | None:
        """A reader from the first transaction above a watermark; None where the log lacks some of what comes after it.

        Raises Evicted where the log is for another edition.
        """
        with self._changed:
            if self._floor is not None and fingerprint != self._fingerprint:
                raise Evicted
            if self._floor is None or after < self._floor or any(first <= after < end for first, end in self._gaps):
                return None
            index = bisect_right(self._entries, after, key=lambda entry: entry.watermark)
            return Tail(self, self._generation, self._base + index, after)

    def behind(self, after: str) -> tuple[int, int] | None:
        """How many entries are above a watermark, and when the first of them was committed (ms since the epoch).

        None where the log does not reach back that far.
        """
        with self._changed:
            if self._floor is None or after < self._floor:
                return None
            index = bisect_right(self._entries, after, key=lambda entry: entry.watermark)
            count = len(self._entries) - index
            return count, self._entries[index].commit_ms if count else 0

    def wait(self, seconds: float) -> None:
        """Until something changes, for so long at most."""
        with self._changed:
            if not self._closed:
                self._changed.wait(seconds)

    def close(self) -> None:
        """Wake every reader; they get nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, generation: int, number: int, rows: int, size: int, timeout: float) -> list[Entry]:
        """Entries from a number on, until the limits are reached; for Tail."""
        with self._changed:
            if number == self._base + len(self._entries) and generation == self._generation and not self._closed:
                self._changed.wait(timeout)
            index = number - self._base
            if generation != self._generation or index < 0:
                raise Evicted
            taken: list[Entry] = []
            for entry in self._entries[index : index + max(rows, 0)]:  # each counts as a row at least
                if rows <= 0 or size <= 0:
                    break
                taken.append(entry)
                rows -= entry.rows or 1
                size -= entry.size
            return taken

    def _trim(self) -> None:
        """Forget the oldest: a quarter of the limit at once, so that the list is not moved for every entry."""
        count = 0
        while self._size > self._limit * 3 // 4 and count < len(self._entries) - 1:
            self._size -= self._entries[count].size
            count += 1
        self._floor = floor = self._entries[count - 1].watermark
        self._gaps = [gap for gap in self._gaps if gap[1] > floor]
        del self._entries[:count]
        self._base += count


class Tail:
    """One reader's place in the log. For one thread."""

    def __init__(self, log: ChangeLog, generation: int, number: int, after: str) -> None:
        self._log = log
        self._generation = generation
        self._number = number
        # The log may not be as far yet as its reader: a private feed or another daemon was ahead of it.
        self._after: str | None = after

    def take(self, rows: int, size: int, timeout: float) -> list[Entry]:
        """The next entries: to about so many rows and bytes, after waiting so many seconds at most. Raises Evicted."""
        taken = self._log.take(self._generation, self._number, rows, size, timeout)
        self._number += len(taken)
        if self._after is not None and taken:
            known = bisect_right(taken, self._after, key=lambda entry: entry.watermark)
            if any((entry.ahead_to or "") > self._after for entry in taken[:known]):
                raise Evicted  # its reader is in a gap
            self._after = None if known < len(taken) else self._after
            return taken[known:]
        return taken

    def close(self) -> None:
        """Nothing to give back."""
