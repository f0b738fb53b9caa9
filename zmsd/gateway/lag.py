"""Lag reports: how late the stream of one session is, for zero-cache's metrics upstream_lag, total_lag, clock skew."""

from __future__ import annotations

import time

from zmsd import position
from zmsd.replication.hub import Hub, Probe
from zmsd.zero import protocol

PATIENCE = 5.0
"""Seconds beyond the interval for which a report waits for the stream to reach the time that it is about."""


class LagReports:
    """One report each interval, of the newest probe of the hub that the stream has reached. Where the stream does not
    reach it, or MongoDB cannot be asked, the last probe is reported with a lag that grows: zero-cache takes silence for
    health. For the session's thread."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._reported: Probe | None = None
        self._due = 0.0  # monotonic seconds of the next report if no probe is reached; 0 before the first one
        self._commit_ms = 0

    def due(self, place: str) -> bytes | None:
        """Return the report to be sent now, if any. Not inside of a transaction.

        :param place: watermark up to which everything was sent
        """
        probe, every = self._hub.probe, self._hub.lag_report
        if probe is None:
            return None
        now = time.monotonic()
        reached_ms = None if probe is self._reported else self._reached_ms(probe, place)
        if reached_ms is not None:
            self._reported = probe
        elif self._due and now >= self._due:
            reached_ms = _now_ms()
        else:
            self._due = self._due or now + every + PATIENCE
            return None
        self._due = now + every + PATIENCE
        self._commit_ms = max(self._commit_ms, probe.commit_ms)
        next_ms = max(_now_ms(), probe.sent_ms + int(every * 1000))
        return protocol.lag_report(probe.sent_ms, self._commit_ms, max(reached_ms, probe.sent_ms), next_ms, place)

    def _reached_ms(self, probe: Probe, place: str) -> int | None:
        if place >= position.watermark(probe.position):
            return probe.reached_ms if self._is_idle(place) else _now_ms()
        return probe.reached_ms if self._is_idle(place) else None

    def _is_idle(self, place: str) -> bool:
        """Whether there was nothing to send."""
        behind = self._hub.log.behind(place)
        return behind is not None and not behind[0]


def _now_ms() -> int:
    return int(time.time() * 1000)
