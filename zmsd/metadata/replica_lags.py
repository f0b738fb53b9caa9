"""The lag of each connected replica over the last minutes, for the curves on ``/status``."""

from __future__ import annotations

from collections.abc import Mapping

from zmsd.watermarks.base import Replica

MAX_REPLICAS = 100
"""Replicas of which samples are kept, besides those that are connected: a client may claim any replicaVersion."""


class ReplicaLags:
    """A bounded ring of samples for each replica. ``sample`` is for one thread, ``of`` is thread-safe.

    The samples belong to the replica and not to its session, so a reconnect of zero-cache shows as a gap in one curve.
    """

    def __init__(self, samples: int) -> None:
        """:param samples: that are kept of each replica"""
        self._kept = samples
        self._samples: dict[Replica, tuple[float | None, ...]] = {}

    def sample(self, lags: Mapping[Replica, float]) -> None:
        """Add one sample to every replica: None to those that are not connected.

        A replica without any sample left is forgotten.

        :param lags: replica -> seconds by which it is behind
        """
        absent = [replica for replica in self._samples if replica not in lags]
        known = [*absent[-MAX_REPLICAS:], *lags]  # those that were connected last come last
        rings = {replica: (*self._samples.get(replica, ())[1 - self._kept :], lags.get(replica)) for replica in known}
        self._samples = {replica: ring for replica, ring in rings.items() if any(lag is not None for lag in ring)}

    def of(self, replica: Replica) -> list[float | None]:
        """Return the samples of a replica, the newest last; empty if it has none. None is a gap."""
        return list(self._samples.get(replica, ()))
