"""Lineage: whether a watermark belongs to this database's history.

If another database, or a restored older state of the same one, answers under the address, its changes do not follow on
from what a client has. A watermark is a time, and a time alone does not show that.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from zmsd import position
from zmsd.errors import ResumeLost, SourceTimeout
from zmsd.mongodb import oplog
from zmsd.mongodb.source import Source
from zmsd.pace import Pace
from zmsd.replication.unacknowledged import is_heartbeat
from zmsd.watermarks.base import WatermarkStore

OTHER = "other-history"
_NOT_HERE = "is not in this database's history: another state of it was restored"


class Lineage:
    """The checks of one process (invariant 5). Thread-safe; the methods raise SourceError and StoreError."""

    def __init__(self, source: Source, store: WatermarkStore) -> None:
        self._source = source
        self._store = store
        self._proven: set[str] = set()  # tokens and watermarks that were found in the oplog
        self._pace = Pace(1)
        self._search: tuple[str, float] | None = None  # watermark, and monotonic seconds of the search's start
        self.distrust_count = 0
        """Number of ``distrust`` calls. A session checks its watermark again when the number has changed."""

    @property
    def searches(self) -> tuple[str, float] | None:
        """Return what mongod is searching for in the oplog, and for how many seconds. Thread-safe."""
        search = self._search
        return None if search is None else (f"the change at watermark {search[0]}", time.monotonic() - search[1])

    def distrust(self) -> None:
        """Discard all proofs, because after a lost connection another database may answer."""
        self.distrust_count += 1
        self._proven.clear()

    def check_watermark(self, watermark: str, since: str) -> None:
        """Raise ResumeLost if a watermark does not belong to this history.

        :param since: watermark from which all changes up to ``watermark`` were taken, such as that of an initial sync
        """
        invalid = self._store.invalidated_below()
        if invalid is not None and min(since, watermark) < invalid[0]:
            raise ResumeLost(invalid[1], OTHER)
        now = self._source.operation_time()
        if position.parse(watermark)[0] > now:
            raise ResumeLost(
                f"watermark {watermark} is later than the database's own time {position.watermark(now)}: "
                "this is another database, or an older state of it was restored",
                OTHER,
            )
        self.check_newest(watermark)

    def check_replica(self, watermark: str, synced_at: str) -> None:
        """Check as ``check_watermark`` does, and that the oplog has the operations at both watermarks.

        Snapshot scans and change streams read majority-committed data, which no election rolls back
        (https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/), so a missing operation proves another
        history. The newest checkpoint does not suffice: it may be older than the state that was restored, where zmsd
        ended before it stored the next one.

        :param synced_at: watermark of the replica's initial sync
        """
        self.check_watermark(watermark, synced_at)
        # A heartbeat has no operation. An observer gives one as its initial sync if it resumes from one.
        at = position.parse(synced_at)[0]
        if not is_heartbeat(at) and not self._proves(synced_at, lambda: oplog.has_operation(self._source, at)):
            raise ResumeLost(f"the initial sync at watermark {synced_at} {_NOT_HERE}", OTHER)
        # Asked each time: every reconnect brings another watermark, and this is a seek.
        at = position.parse(watermark)[0]
        if watermark != synced_at and not is_heartbeat(at) and not oplog.has_operation(self._source, at):
            raise ResumeLost(f"the change at watermark {watermark} {_NOT_HERE}", OTHER)

    def check_newest(self, watermark: str = position.LAST) -> None:
        """Raise ResumeLost if the oplog lacks the event of the newest checkpoint up to a watermark."""
        checkpoint = self._store.latest_checkpoint(watermark)
        invalid = self._store.invalidated_below()
        if checkpoint is None or (invalid is not None and checkpoint[0] < invalid[0]):
            return
        mark, token = checkpoint
        if not self._proves(token, lambda: self._has_event(mark, token)):
            reason = f"the change at watermark {mark} {_NOT_HERE}"
            self.invalidate(reason)
            raise ResumeLost(reason, OTHER)

    def invalidate(self, reason: str) -> None:
        """Declare all known watermarks invalid, because they belong to another history.

        The boundary is above every watermark of the former history, because that database's clock may have been ahead
        of this one's.
        """
        known = [record.newest for record in self._store.replicas().values()]
        newest = self._store.latest_checkpoint(position.LAST)
        if newest is not None:
            known.append(newest[0])
        after = max((position.parse(mark)[0] + 1 for mark in known), default=0)
        self._store.invalidate(position.watermark(max(self._source.operation_time(), after)), reason)

    def _has_event(self, mark: str, token: str) -> bool:
        self._search = mark, time.monotonic()
        try:
            found = oplog.has_event(self._source, token, self._pace.seconds)
        except SourceTimeout as error:
            self._pace.late(busy=error.busy)
            raise
        finally:
            self._search = None
        self._pace.in_time()
        return found

    def _proves(self, key: str, proof: Callable[[], bool]) -> bool:
        """Return what ``proof`` returns, and remember a positive result until the next ``distrust``."""
        count = self.distrust_count
        if key in self._proven:
            return True
        found = proof()
        if found and count == self.distrust_count:
            self._proven.add(key)
        return found
