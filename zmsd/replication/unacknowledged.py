"""Watermarks of commits that a replica was sent and has not acknowledged.

zero-cache hands a commit to its replica at once and to its change log in Postgres later, and acknowledges the latter
(services/change-streamer/change-streamer-service.ts in rocicorp/mono, ``run``). If zero-cache is killed in between, it
resumes from an earlier watermark, and its replica asks the change log for what follows its own watermark. A change log
without a commit at exactly that watermark refuses the replica for ever (storer.ts, ``WatermarkTooOld``). So a commit
that is sent again must have the watermark that it had before, although zmsd may join more transactions the second time.

A process does not know what another one sent: zmsd before a restart, or another daemon on the same store. It knows only
where commits can end: at each transaction, and at the positions of heartbeats. So it sends the first transactions after
an unknown position one by one, with a heartbeat wherever one may have been.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from itertools import pairwise
from threading import Lock

from zmsd import position
from zmsd.replication.change_log import Entry

MAX_WATERMARKS = 10_000
"""Newest watermarks that are kept for a replica: more than zero-cache holds unwritten."""


MAX_SINGLE = 10_000
"""Commits that are sent one by one after an unknown position; zero-cache takes about 700 of them in a second."""


def heartbeat_position(progress: int, interval: float) -> int:
    """Return the position of the newest heartbeat at or before a position: a multiple of the interval, so that a later
    process finds the same positions.

    :param interval: setting ``feed.heartbeat``; seconds
    """
    step = max(int(interval), 1)
    return position.seconds(progress) // step * step << 32


def is_heartbeat(at: int) -> bool:
    """Return whether a position is that of a heartbeat: the increments of MongoDB's operations begin with 1."""
    return at & 0xFFFFFFFF == 0


class Unacknowledged:
    """The commits that one replica was sent and has not acknowledged. Thread-safe."""

    def __init__(self, heartbeat: float = 60.0) -> None:
        """:param heartbeat: seconds, setting ``feed.heartbeat``"""
        self._heartbeat = heartbeat
        self._lock = Lock()
        self._watermarks: list[str] = []
        self._newest = ""
        self._single = 0  # commits that are still to be sent one by one

    def resumed(self, watermark: str) -> None:
        """Note a connection that resumes from a watermark. If this process did not send it, another one did, and may
        have sent more."""
        with self._lock:
            if watermark > self._newest:
                self._single = MAX_SINGLE

    def sent(self, watermark: str) -> None:
        """Record a commit that was sent."""
        with self._lock:
            watermarks = self._watermarks
            self._newest = max(self._newest, watermark)
            if not watermarks or watermark > watermarks[-1]:
                watermarks.append(watermark)
            elif watermarks[bisect_right(watermarks, watermark) - 1] != watermark:
                insort(watermarks, watermark)
            if len(watermarks) > MAX_WATERMARKS:
                del watermarks[: MAX_WATERMARKS // 2]

    def acknowledged(self, watermark: str) -> None:
        """Forget the commits up to a watermark: zero-cache has written them."""
        with self._lock:
            del self._watermarks[: bisect_right(self._watermarks, watermark)]

    def after(self, watermark: str) -> list[str]:
        """Return the watermarks above one, in order."""
        with self._lock:
            return self._watermarks[bisect_right(self._watermarks, watermark) :]

    def split(self, after: str, entries: Sequence[Entry], again: list[str]) -> Iterator[Sequence[Entry]]:
        """Yield the entries in parts that end where commits ended before, or can have ended.

        :param after: watermark up to which the replica was sent everything, or of the transaction that it has open
        :param again: as of ``split_at``
        """
        if self._single:
            possible = self._possible(after, entries)
            with self._lock:
                del possible[self._single :]
                self._single -= len(possible)
            again[:] = sorted({*again, *possible})
        return split_at(entries, again)

    def _possible(self, after: str, entries: Sequence[Entry]) -> list[str]:
        """Return the watermarks at which another process can have ended commits, in order."""
        step = max(int(self._heartbeat), 1) << 32
        found: list[str] = []
        for before, mark in pairwise([after, *[entry.watermark for entry in entries]]):
            heartbeat = heartbeat_position(position.parse(before)[0], self._heartbeat) + step
            while heartbeat < position.parse(mark)[0] and len(found) < MAX_SINGLE:
                found.append(position.watermark(heartbeat))
                heartbeat += step
            if mark != before:
                found.append(mark)
        return found


def split_at(entries: Sequence[Entry], watermarks: list[str]) -> Iterator[Sequence[Entry]]:
    """Yield the entries in parts that end where commits were sent before.

    A watermark without an entry, such as a heartbeat's, gets an entry without changes.

    :param watermarks: of these commits, in order; those that the entries pass are removed
    """
    while watermarks and entries and entries[-1].watermark >= watermarks[0]:
        end = watermarks.pop(0)
        count = bisect_right(entries, end, key=lambda entry: entry.watermark)
        if count and entries[count - 1].watermark == end and not entries[count - 1].ends_transaction:
            watermarks.insert(0, end)  # the rest of this transaction follows
            break
        if count:
            yield entries[:count]
        if not count or entries[count - 1].watermark != end:
            commit_ms = entries[max(count - 1, 0)].commit_ms
            yield [Entry(end, commit_ms, 0, b"")]
        entries = entries[count:]
    if entries:
        yield entries
