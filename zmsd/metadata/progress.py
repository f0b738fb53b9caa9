"""Why no changes arrive although nothing has failed: what zmsd waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from zmsd.replication.dispatcher import Dispatcher
from zmsd.replication.hub import STARTING, Readiness
from zmsd.replication.lineage import Lineage

MAJORITY_SECONDS = 30.0
"""Seconds without progress after which the majority commit point counts as standing still: an election takes less."""
_SEARCH_SECONDS = 2.0
"""Seconds after which a search in the oplog is mentioned."""


class MajorityCommitPoint:
    """Whether MongoDB's majority commit point follows what the primary writes.

    Change streams show nothing beyond it. With a primary, an arbiter and a secondary that is down, the primary goes on
    writing, and nothing can be sent.
    (https://www.mongodb.com/docs/manual/tutorial/mitigate-psa-performance-issues/)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._point: Any = None  # the optime's ts; None: not known
        self._newest: Any = None  # of the primary's newest write when the point was first seen there
        self._since = 0.0  # clock: when it was first seen there
        self._stands = False

    def look(self, hello: Mapping[str, Any]) -> None:
        """Take the primary's answer to ``hello``. mongos reports no ``lastWrite``."""
        write = hello.get("lastWrite", {})
        if "majorityOpTime" not in write or "opTime" not in write:
            self.forget()
            return
        point, newest = write["majorityOpTime"]["ts"], write["opTime"]["ts"]
        if point != self._point:
            self._point, self._newest, self._since = point, newest, self._clock()
        self._stands = newest > point and newest != self._newest

    def forget(self) -> None:
        """The primary cannot be asked."""
        self._point, self._stands = None, False

    @property
    def stands_for(self) -> float:
        """Seconds for which it has not moved while the primary's newest write has. Thread-safe."""
        return self._clock() - self._since if self._stands else 0.0


class Progress:
    """Everything that zmsd waits for and that no error reports. Thread-safe."""

    def __init__(self, dispatcher: Dispatcher, lineage: Lineage, readiness: Readiness) -> None:
        self.majority = MajorityCommitPoint()
        self._dispatcher = dispatcher
        self._lineage = lineage
        self._readiness = readiness

    @property
    def age(self) -> float:
        """Seconds since the feed last made progress; in an idle database it makes some every second."""
        return self._dispatcher.progress_age

    @property
    def waits_for_majority(self) -> str | None:
        """None: not for that."""
        seconds = self.majority.stands_for
        if seconds < MAJORITY_SECONDS:
            return None
        return (
            f"MongoDB's majority commit point has not moved for {seconds:.0f} s while the primary goes on writing, and "
            "change streams end there: too few data-bearing members are up and replicate (see rs.status())"
        )

    @property
    def waits(self) -> str | None:
        """What zmsd waits for, in one line; None: for nothing, or only for changes."""
        search = self._lineage.searches
        if search is not None and search[1] >= _SEARCH_SECONDS:
            return f"MongoDB has been scanning its oplog for {search[1]:.0f} s for {search[0]}"
        known = self._readiness.reason not in (None, STARTING)  # an error, which the dispatcher has logged
        return None if known else self._dispatcher.stalled
