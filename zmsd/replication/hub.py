"""Hub: the parts that the dispatcher, the sessions and the monitor share."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Condition, Event

from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.catch_up import CatchUpFeeds
from zmsd.replication.change_log import ChangeLog
from zmsd.replication.connected_replicas import ConnectedReplicas
from zmsd.replication.counters import Counters
from zmsd.replication.lag_probes import LagProbes
from zmsd.replication.lineage import Lineage
from zmsd.replication.problems import Problems
from zmsd.rows.rejects import Rejects
from zmsd.watermarks.base import WatermarkStore

STARTING = "starting"
"""The reason until the feed runs or fails for the first time."""


class Readiness:
    """Whether the live feed runs, and if not, why. ``/readyz`` shows it, and new sessions wait for it. Thread-safe."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._reason: str | None = STARTING

    @property
    def reason(self) -> str | None:
        """Return why the feed does not run; None if it runs."""
        return self._reason

    def set(self, reason: str | None) -> None:
        """Set the reason, and wake the threads that wait."""
        with self._changed:
            self._reason = reason
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait at most some seconds for the feed to run. Return whether it runs."""
        with self._changed:
            return self._changed.wait_for(lambda: self._reason is None, seconds)


@dataclass
class Hub:
    """One object for the process. Each part documents its own thread rules."""

    source: Source
    active: ActivePublication
    """The publication that is served. Only the dispatcher replaces it, between two feeds."""
    store: WatermarkStore
    lineage: Lineage
    log: ChangeLog
    readiness: Readiness
    rejects: Rejects
    counters: Counters
    catch_up_feeds: int = 4
    """Catch-up feeds at once: setting ``feed.catch_up``."""
    initial_sync_rows: int = 0
    """Rows per second of an initial sync at most, 0 for no limit: setting ``feed.initial_sync_rows_per_second``."""
    join_delay: float = 0.02
    """Seconds for which changes wait for the ack of the last commit at most: setting ``feed.join_delay``."""
    lag_report: float = 30.0
    """Seconds between lag reports to a client."""
    heartbeat: float = 60.0
    """Seconds between heartbeats: setting ``feed.heartbeat``."""
    stop: Event = field(default_factory=Event)
    problems: Problems = field(default_factory=Problems)
    catch_up: CatchUpFeeds = field(init=False)
    replicas: ConnectedReplicas = field(init=False)
    probes: LagProbes = field(init=False)

    def __post_init__(self) -> None:
        self.catch_up = CatchUpFeeds(self.source, self.log, self.catch_up_feeds)
        self.replicas = ConnectedReplicas(self.store, self.heartbeat)
        self.probes = LagProbes(self.source)
