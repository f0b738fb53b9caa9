"""What a watermark store keeps: the little that cannot be derived from MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from zmsd import position


class Replica(NamedTuple):
    """A zero-cache's copy of the published tables: (appID, shardNum, replicaVersion).

    Several replicas of one shard may be live at once: a rolling deploy has the old and the new replication-manager side
    by side, and both stream (``replicaVersion`` in packages/zero-cache/src/services/change-source/custom of
    rocicorp/mono).
    """

    app: str
    shard: int
    version: str
    """Watermark of its initial sync. ``""``: an older zmsd wrote the record, which kept one for the shard."""

    @property
    def shard_name(self) -> str:
        return f"{self.app}_{self.shard}"


class CopyRecord(NamedTuple):
    """A transaction that gave a replica its tables: its initial sync, or a schema change."""

    watermark: str
    stream_from: str
    """Watermark from which the stream continues: above ``watermark`` where the snapshot scan took so long that changes
    were replayed into it."""
    publication: str
    """Fingerprint of the publication from ``watermark`` on."""


class ReplicaRecord(NamedTuple):
    """What a store knows of a replica."""

    acked: str | None
    """The newest watermark that a streaming session of the replica has acknowledged. None: the record is provisional,
    for a replica that may never come back (``PROVISIONAL_SECONDS``)."""
    copies: tuple[CopyRecord, ...]
    """At least one, in the order of their watermarks."""

    @property
    def confirmed(self) -> str:
        """The newest watermark that the replica surely has."""
        return self.acked or self.copies[0].watermark

    @property
    def newest(self) -> str:
        """The newest watermark in the record."""
        return max(self.confirmed, self.copies[-1].watermark)

    def latest_copy(self, watermark: str) -> CopyRecord | None:
        """Return the newest copy at or below a watermark."""
        return next((copy for copy in reversed(self.copies) if copy.watermark <= watermark), None)

    def with_copy(self, copy: CopyRecord) -> ReplicaRecord:
        """Add a copy, or replace the one at the same watermark.

        Beyond ``COPIES`` the oldest copies go whose predecessor has the same publication, then the oldest: a replica
        that never receives a schema change asks for it again and again, and must not lose its own base by that.
        """
        others = [other for other in self.copies if other.watermark != copy.watermark]
        kept = sorted([*others, copy])
        while len(kept) > COPIES:
            same = (
                number for number in range(1, len(kept) - 1) if kept[number].publication == kept[number - 1].publication
            )
            del kept[next(same, 0)]
        return self._replace(copies=tuple(kept))


class Identity(NamedTuple):
    """What tells this database from another one under the same address."""

    set_id: str | None
    """The replica set's own id, where reading it is allowed."""
    collections: dict[str, str]
    """Collection name -> UUID."""
    database: str | None = None
    """Its name; None where an older zmsd wrote this."""


class Contents(NamedTuple):
    """Everything that a store keeps, to be shown or copied."""

    replicas: dict[Replica, ReplicaRecord]
    checkpoints: dict[str, str]
    """Watermark -> token."""
    publications: dict[str, str]
    """Fingerprint -> document."""
    epochs: Sequence[str]
    identity: Identity | None
    invalid: tuple[str, str] | None
    """As of ``invalidated_below``."""


COPIES = 100
"""Copies that a record holds."""
REPLICAS = 100
"""Replicas of one shard that are kept; the one not heard from for the longest time goes first."""
REPLICA_SECONDS = 30 * 24 * 3600
"""Age of the newest watermark of a replica after which it is forgotten, once its shard has a newer replica. A client
that comes back even later is sent reset-required."""
PROVISIONAL_SECONDS = 3600
"""The same for a replica that has not acknowledged anything in its stream: most likely it was a visitor."""
CHECKPOINTS = 1000
"""Those that are kept behind the newest one, besides those that some shard has not yet confirmed."""
CHECKPOINTS_AT_MOST = 100_000
"""A day of them, for a client that never comes back."""


class WatermarkStore(Protocol):
    """May be used from any thread; each method raises StoreError."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written just now, where that passes by itself and is caught up with; None: it can be."""
        ...

    def replica(self, replica: Replica) -> ReplicaRecord | None:
        """Return what is known, including what another daemon wrote just now."""
        ...

    def replicas(self) -> dict[Replica, ReplicaRecord]: ...

    def record_copy(self, replica: Replica, copy: CopyRecord) -> None:
        """Record an initial sync or a schema change before its commit is sent. Nothing else is removed by it but what
        ``with_copy`` removes."""
        ...

    def record_ack(self, replica: Replica, watermark: str) -> None:
        """Record an acknowledgement of a streaming session; without effect for an unknown replica."""
        ...

    def record_checkpoint(self, watermark: str, token: str) -> None:
        """The resume token of a watermark's last event; those far behind all acks are forgotten."""
        ...

    def latest_checkpoint(self, watermark: str) -> tuple[str, str] | None:
        """The newest (watermark, token) at or below a watermark."""
        ...

    def load_identity(self) -> Identity | None: ...

    def save_identity(self, identity: Identity) -> None: ...

    def invalidated_below(self) -> tuple[str, str] | None:
        """(watermark, reason): what was copied below belongs to another database, or to a history that is gone."""
        ...

    def invalidate(self, watermark: str, reason: str) -> None: ...

    def load_publication(self, fingerprint: str) -> str | None:
        """What was published under a fingerprint, as ``save_publication`` got it."""
        ...

    def save_publication(self, fingerprint: str, document: str) -> None: ...

    def epochs(self) -> Sequence[str]:
        """What the daemons that share this store have published, one fingerprint after the other: the last one holds
        for all of them. Empty for a store that only one daemon uses."""
        ...

    def append_epoch(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        """Make an edition the next epoch of all daemons; False where ``after`` are not the epochs any more.

        Nothing is published later: StoreError where that cannot be done now.
        """
        ...

    def on_epoch_change(self, told: Callable[[], None]) -> None:
        """Have something called, in another thread, when the epochs may have changed. For one caller."""
        ...

    def contents(self) -> Contents: ...

    def forget_replica(self, replica: Replica) -> None:
        """Drop everything about a replica."""
        ...

    def forget_publication(self, fingerprint: str) -> None: ...

    def probe(self) -> None:
        """Find out whether writing works again after ``trouble``."""
        ...

    def close(self) -> None: ...


def outdated(replicas: Mapping[Replica, ReplicaRecord], now: str) -> list[Replica]:
    """Return the replicas that nobody needs any more.

    :param now: watermark of the database's own time; ages are differences of cluster times
    """
    seconds = position.seconds(position.parse(now)[0])
    shards: dict[tuple[str, int], list[tuple[str, Replica]]] = {}
    for replica, record in replicas.items():
        shards.setdefault(replica[:2], []).append((record.newest, replica))
    found: list[Replica] = []
    for heard in shards.values():
        heard.sort(reverse=True)
        for number, (newest, replica) in enumerate(heard):
            age = seconds - position.seconds(position.parse(newest)[0])
            replaced = number >= REPLICAS or (number > 0 and age > REPLICA_SECONDS)
            if age > PROVISIONAL_SECONDS and (replaced or replicas[replica].acked is None):
                found.append(replica)
    return found
