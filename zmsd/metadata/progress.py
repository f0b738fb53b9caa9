"""What zmsd waits for while no changes arrive and no error explains it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from zmsd.replication.dispatcher import Dispatcher
from zmsd.replication.hub import STARTING, Readiness
from zmsd.replication.lineage import Lineage

MAJORITY_SECONDS = 30.0
"""Seconds without progress after which the majority commit point counts as stalled: an election takes less."""
_SEARCH_SECONDS = 2.0
"""Seconds after which a scan of the oplog is reported."""


class MajorityCommitPoint:
    """Detect that MongoDB's majority commit point does not follow the primary's writes.

    Change streams end at that point. If a replica set has a primary, an arbiter and a secondary that is down, the
    primary continues to write, and zmsd can send nothing
    (https://www.mongodb.com/docs/manual/tutorial/mitigate-psa-performance-issues/).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._point: Any = None  # the point's cluster time; None if unknown
        self._newest: Any = None  # cluster time of the primary's newest write when the point was first seen there
        self._since = 0.0  # when the point was first seen there, by ``clock``
        self._stalled = False

    def observe(self, hello: Mapping[str, Any]) -> None:
        """Take the primary's reply to ``hello``. mongos reports no ``lastWrite``."""
        write = hello.get("lastWrite", {})
        if "majorityOpTime" not in write or "opTime" not in write:
            self.forget()
            return
        point, newest = write["majorityOpTime"]["ts"], write["opTime"]["ts"]
        if point != self._point:
            self._point, self._newest, self._since = point, newest, self._clock()
        self._stalled = newest > point and newest != self._newest

    def forget(self) -> None:
        """Forget the point: the primary did not answer."""
        self._point, self._stalled = None, False

    @property
    def stalled_seconds(self) -> float:
        """Return the seconds for which the point has not moved although the primary wrote, or 0. Thread-safe."""
        return self._clock() - self._since if self._stalled else 0.0


class Progress:
    """Find what zmsd waits for where no error reports it. Thread-safe."""

    def __init__(self, dispatcher: Dispatcher, lineage: Lineage, readiness: Readiness) -> None:
        self.majority = MajorityCommitPoint()
        self._dispatcher = dispatcher
        self._lineage = lineage
        self._readiness = readiness

    @property
    def age(self) -> float:
        """Return the seconds since the feed last made progress; an idle feed makes progress every second."""
        return self._dispatcher.progress_age

    @property
    def waits_for_majority(self) -> str | None:
        """Return that zmsd waits for the majority commit point; None if it does not."""
        seconds = self.majority.stalled_seconds
        if seconds < MAJORITY_SECONDS:
            return None
        return (
            f"MongoDB's majority commit point has not moved for {seconds:.0f} s while the primary goes on writing, and "
            "change streams end there: start the data-bearing members that are down or behind (see rs.status())"
        )

    @property
    def waits(self) -> str | None:
        """Return what else zmsd waits for, in one line; None if for nothing, or only for changes."""
        search = self._lineage.searches
        if search is not None and search[1] >= _SEARCH_SECONDS:
            return f"MongoDB has been scanning its oplog for {search[1]:.0f} s for {search[0]}"
        known = self._readiness.reason not in (None, STARTING)  # an error, which the dispatcher has logged
        return None if known else self._dispatcher.stalled
