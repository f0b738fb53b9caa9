"""Whether a place is one of this database's history: where another database, or an older state of it, answers under
the address, no change follows on what a client has."""

from __future__ import annotations

import time
from collections.abc import Callable

from zmsd import position
from zmsd.errors import ResumeLost, SourceTimeout
from zmsd.mongodb import oplog
from zmsd.mongodb.source import Source
from zmsd.pace import Pace
from zmsd.watermarks.base import WatermarkStore

OTHER = "other-history"
_NOT_HERE = "is not in this database's history: another state of it was restored"


class History:
    """One for the process. Its methods may be called from any thread, and raise SourceError."""

    def __init__(self, source: Source, store: WatermarkStore) -> None:
        self._source = source
        self._store = store
        self._proven: set[str] = set()  # tokens and watermarks that are in the oplog
        self._pace = Pace(1)
        self._search: tuple[str, float] | None = None  # watermark, and monotonic seconds of the beginning
        self.doubts = 0
        """Grows where the connection was lost: another database may answer since. Then each place is to be checked."""

    @property
    def searches(self) -> tuple[str, float] | None:
        """What mongod is asked to find in the oplog, and for how many seconds already. Thread-safe."""
        search = self._search
        return None if search is None else (f"the change at watermark {search[0]}", time.monotonic() - search[1])

    def doubt(self) -> None:
        """Nothing is proven any more."""
        self.doubts += 1
        self._proven.clear()

    def check_place(self, place: str, begun: str) -> None:
        """Raises ResumeLost where a watermark is not one of this history.

        :param begun: watermark from which all changes up to ``place`` were taken, as that of a copy
        """
        invalid = self._store.invalidated_below()
        if invalid is not None and min(begun, place) < invalid[0]:
            raise ResumeLost(invalid[1], OTHER)
        now = self._source.operation_time()
        if position.parse(place)[0] > now:
            raise ResumeLost(
                f"watermark {place} is later than the database's own time {position.watermark(now)}: "
                "this is another database, or an older state of it was restored",
                OTHER,
            )
        self.check_newest(place)

    def check_copy(self, place: str, begun: str) -> None:
        """As ``check_place`` for what goes back to a copy: that was made at an operation which no election undoes."""
        self.check_place(place, begun)
        at = position.parse(begun)[0]
        if not self._proves(begun, lambda: oplog.has_operation(self._source, at)):
            raise ResumeLost(f"the copy at watermark {begun} {_NOT_HERE}", OTHER)

    def check_newest(self, place: str = position.LAST) -> None:
        """The event of the newest checkpoint up to a place must still be there. Raises ResumeLost."""
        checkpoint = self._store.latest_checkpoint(place)
        invalid = self._store.invalidated_below()
        if checkpoint is None or (invalid is not None and checkpoint[0] < invalid[0]):
            return
        mark, token = checkpoint
        if not self._proves(token, lambda: self._has_event(mark, token)):
            reason = f"the change at watermark {mark} {_NOT_HERE}"
            self.invalidate(reason)
            raise ResumeLost(reason, OTHER)

    def invalidate(self, reason: str) -> None:
        """The history has become another one: all that goes back to what is known of the one before is void.

        The time alone does not part them: what ran before may have had a clock that is ahead of this database's.
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

    def _proves(self, what: str, proof: Callable[[], bool]) -> bool:
        doubts = self.doubts
        if what in self._proven:
            return True
        found = proof()
        if found and doubts == self.doubts:
            self._proven.add(what)
        return found
