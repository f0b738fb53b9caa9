"""Lag probes: the database's own time, which the streams have yet to reach, for zero-cache's lag metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC

from zmsd import position
from zmsd.errors import SourceError
from zmsd.mongodb.source import Source


@dataclass(slots=True)
class Probe:
    """The database's time when it was asked for."""

    sent_ms: int
    """When MongoDB was asked, by this machine's clock; ms since the epoch."""
    commit_ms: int
    """What MongoDB's clock showed; ms since the epoch."""
    position: int
    """The newest operation in MongoDB then."""
    reached_ms: int | None = None
    """When the change log had everything up to ``position``; ms since the epoch."""


class LagProbes:
    """The newest probe of a process. The monitor's thread takes probes; any thread may read ``current``."""

    def __init__(self, source: Source) -> None:
        self.current: Probe | None = None
        self._source = source
        self._progress = 0

    def take(self) -> None:
        """Ask MongoDB for its time. May wait for MongoDB; without an answer the probe before stays."""
        sent = time.time()
        try:
            reply = self._source.command({"hello": 1})
        except SourceError:
            return
        if "operationTime" not in reply:
            return
        commit_ms = int(reply["localTime"].replace(tzinfo=UTC).timestamp() * 1000)
        probe = Probe(int(sent * 1000), commit_ms, position.of_timestamp(reply["operationTime"]))
        if self._progress >= probe.position:
            probe.reached_ms = int(time.time() * 1000)
        self.current = probe

    def reached(self, progress: int) -> None:
        """Note that the change log has everything up to a position. Dispatcher thread only."""
        self._progress = progress
        probe = self.current
        if probe is not None and probe.reached_ms is None and progress >= probe.position:
            probe.reached_ms = int(time.time() * 1000)
