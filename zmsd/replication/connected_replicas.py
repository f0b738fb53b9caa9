"""ConnectedReplicas: the replicas that stream now, and the end of records that no replica needs any longer."""

from __future__ import annotations

import logging
from collections import Counter
from threading import Lock

from zmsd.log import kv
from zmsd.replication.unacknowledged import Unacknowledged
from zmsd.watermarks.base import Replica, WatermarkStore, outdated

log = logging.getLogger(__name__)


class ConnectedReplicas:
    """One object for the process. Thread-safe."""

    def __init__(self, store: WatermarkStore, heartbeat: float) -> None:
        """:param heartbeat: seconds, setting ``feed.heartbeat``"""
        self._store = store
        self._heartbeat = heartbeat
        self._streams: Counter[Replica] = Counter()
        self._announced: dict[tuple[str, int], frozenset[str]] = {}
        self._unacknowledged: dict[Replica, Unacknowledged] = {}
        self._lock = Lock()

    def counts(self) -> dict[Replica, int]:
        """Return replica -> number of its streams, for the replicas that are connected."""
        with self._lock:
            return dict(self._streams)

    def add(self, replica: Replica, watermark: str) -> Unacknowledged:
        """Count a stream that begins. Log a warning if another replica of the same shard is connected too.

        :param watermark: from which the stream resumes
        :return: the commits that the replica was sent, on any connection, and has not acknowledged
        """
        with self._lock:
            self._streams[replica] += 1
            versions = frozenset(one.version for one in self._streams if one[:2] == replica[:2])
            known = self._announced.get(replica[:2], frozenset())
            self._announced[replica[:2]] = versions
        if len(versions) > 1 and not versions <= known:
            log.warning(
                kv(
                    "several replicas of one shard are connected",
                    app=replica.app,
                    shard=replica.shard,
                    replicas=",".join(sorted(versions)),
                    advice="normal while a deployment replaces a replication-manager, or after a reset; otherwise give "
                    "each zero-cache its own ZERO_APP_ID",
                )
            )
        commits = self.unacknowledged(replica)
        commits.resumed(watermark)
        return commits

    def unacknowledged(self, replica: Replica) -> Unacknowledged:
        """Return the commits that a replica was sent, on any connection, and has not acknowledged."""
        return self._unacknowledged.setdefault(replica, Unacknowledged(self._heartbeat))

    def remove(self, replica: Replica) -> None:
        """Count a stream that has ended."""
        with self._lock:
            self._streams[replica] -= 1
            if not self._streams[replica]:
                del self._streams[replica]

    def forget_outdated(self, now: str) -> None:
        """Remove the records of outdated replicas that are not connected from the store. Raises StoreError.

        :param now: watermark of the database's time
        """
        connected = self.counts()
        for replica in outdated(self._store.replicas(), now):
            if replica not in connected:
                log.info(kv("replica forgotten", app=replica.app, shard=replica.shard, replica=replica.version))
                self._store.forget_replica(replica)
                self._unacknowledged.pop(replica, None)
