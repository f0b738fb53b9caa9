"""Lag reports of one session's stream, for zero-cache's metrics ``upstream_lag``, ``total_lag`` and clock skew."""

from __future__ import annotations

import time
from collections.abc import Callable

from zmsd import position
from zmsd.replication.hub import Hub
from zmsd.replication.lag_probes import Probe
from zmsd.zero import protocol

GRACE_SECONDS = 5.0
"""Seconds beyond the interval for which a report waits until the stream has reached its probe."""


class LagReports:
    """One report per interval, about the newest probe that the stream has reached. Session's thread only.

    While the stream does not reach a probe, or MongoDB does not answer, the last probe is reported with a growing lag,
    because zero-cache takes a missing report for a healthy stream.
    """

    def __init__(
        self, hub: Hub, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        """:param clock: returns monotonic seconds
        :param wall_clock: returns seconds since the epoch
        """
        self._hub = hub
        self._clock = clock
        self._wall_clock = wall_clock
        self._reported: Probe | None = None
        self._due = 0.0  # monotonic seconds of the next report if no probe is reached; 0 before the first one
        self._commit_ms = 0

    def due(self, watermark: str) -> bytes | None:
        """Return the report that is due, or None. Do not call this inside a transaction.

        :param watermark: watermark up to which everything was sent
        """
        probe, every = self._hub.probes.current, self._hub.lag_report
        if probe is None:
            return None
        now = self._clock()
        reached_ms = None if probe is self._reported else self._reached_ms(probe, watermark)
        if reached_ms is not None:
            self._reported = probe
        elif self._due and now >= self._due:
            reached_ms = self._now_ms()
        else:
            self._due = self._due or now + every + GRACE_SECONDS
            return None
        self._due = now + every + GRACE_SECONDS
        self._commit_ms = max(self._commit_ms, probe.commit_ms)
        next_ms = max(self._now_ms(), probe.sent_ms + int(every * 1000))
        return protocol.lag_report(probe.sent_ms, self._commit_ms, max(reached_ms, probe.sent_ms), next_ms, watermark)

    def _reached_ms(self, probe: Probe, watermark: str) -> int | None:
        if watermark >= position.watermark(probe.position):
            return probe.reached_ms if self._is_idle(watermark) else self._now_ms()
        return probe.reached_ms if self._is_idle(watermark) else None

    def _is_idle(self, watermark: str) -> bool:
        """Return whether there was nothing to send."""
        behind = self._hub.log.behind(watermark)
        return behind is not None and not behind[0]

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)
