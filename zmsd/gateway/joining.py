"""TransactionJoiner: one Zero transaction for many entries of the change log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zmsd.replication.change_log import Entry
from zmsd.replication.unacknowledged import Unacknowledged
from zmsd.zero import protocol

JOIN_ROWS = 1000
JOIN_BYTES = 1 << 20
"""Rows and bytes of a backlog that are joined into one Zero transaction (invariant 8): zero-cache applies rows much
faster in larger transactions (bench/README.rst)."""


class TransactionJoiner:
    """The open transaction of one client. Session's thread only."""

    def __init__(self, shard_name: str, committed: str | None) -> None:
        """:param committed: watermark of the newest transaction that the client has"""
        self.open: str | None = None
        """Watermark of the transaction that was begun and not committed yet."""
        self.committed = committed
        """Watermark of the newest commit."""
        self.commits = Unacknowledged()
        """The commits sent and not acknowledged; those of all connections, once the client has a replica."""
        self._shard = shard_name
        self._oldest_ms = 0  # commit time of the oldest change in the open transaction

    def frames(self, after: str, entries: Sequence[Entry], again: list[str]) -> bytes:
        """Return the frames that send entries: as one transaction, or in the parts in which they were sent before.

        :param after: watermark up to which the client was sent everything
        :param again: as of ``Unacknowledged.split``
        """
        parts = self.commits.split(self.open or after, entries, again)
        return b"".join([frame for part in parts for frame in self.join(part)])

    def join(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """Yield frames that send entries as one transaction, under the watermark of the last entry.

        A large transaction of MongoDB may stay open at the end; the next call continues it. Raises AssertionError if
        watermarks do not rise, or if another transaction begins inside an open one (invariant 1).
        """
        end = entries[-1]
        if self.open is None:
            assert self.committed is None or end.watermark > self.committed, (
                f"watermark {end.watermark} after {self.committed}"
            )
            self._oldest_ms = end.commit_ms
            yield protocol.begin(end.watermark)
        elif end.watermark != self.open:
            # Close the open transaction under the watermark of its begin (invariant 1), then join the rest.
            assert entries[0].watermark == self.open, f"watermark {entries[0].watermark} inside {self.open}"
            number = next(index for index, entry in enumerate(entries) if entry.ends_transaction) + 1
            yield from self.join(entries[:number])
            yield from self.join(entries[number:])
            return
        yield from [entry.frames for entry in entries]
        of_shard = [entry.shard_frames for entry in entries if entry.shard_frames]
        # Frames of the shard are of other tables, so their order among the frames before does not matter.
        yield from [frames[self._shard] for frames in of_shard if self._shard in frames]
        # The oldest commit time, as zero-cache keeps when it joins transactions itself, so that its lag metrics show a
        # backlog (packages/zero-cache/src/services/view-syncer/e2e-serving-lag.ts).
        self._oldest_ms = min(self._oldest_ms, min([entry.commit_ms for entry in entries]))
        self.open = None if end.ends_transaction else end.watermark
        if end.ends_transaction:
            self.committed = end.watermark
            self.commits.sent(end.watermark)
            yield protocol.commit(end.watermark, self._oldest_ms)
