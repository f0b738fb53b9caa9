"""Watermarks of commits that a replica was sent and has not acknowledged.

zero-cache hands a commit to its replica at once and to its change log in Postgres later, and acknowledges the latter
(services/change-streamer/change-streamer-service.ts in rocicorp/mono, ``run``). If zero-cache is killed in between, it
resumes from an earlier watermark, and its replica asks the change log for what follows its own watermark. A change log
without a commit at exactly that watermark refuses the replica for ever (storer.ts, ``WatermarkTooOld``). So a commit
that is sent again must have the watermark that it had before, although zmsd may join more transactions the second time.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from threading import Lock

from zmsd.replication.change_log import Entry

MAX_WATERMARKS = 10_000
"""Newest watermarks that are kept for a replica: more than zero-cache holds unwritten."""


class Unacknowledged:
    """The commits that one replica was sent and has not acknowledged. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watermarks: list[str] = []

    def sent(self, watermark: str) -> None:
        """Record a commit that was sent."""
        with self._lock:
            watermarks = self._watermarks
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


def split(entries: Sequence[Entry], watermarks: list[str]) -> Iterator[Sequence[Entry]]:
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
