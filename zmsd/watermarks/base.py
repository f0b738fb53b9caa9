"""The contract of a watermark store, which keeps what cannot be derived from MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from zmsd import position


class Replica(NamedTuple):
    """A zero-cache's copy of the published tables: (appID, shardNum, replicaVersion) (invariant 7).

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
        """Return the app ID and the shard number, joined as Zero joins them in names."""
        return f"{self.app}_{self.shard}"


class CopyRecord(NamedTuple):
    """A transaction that defined the tables of a replica: its initial sync, or a schema change."""

    watermark: str
    stream_from: str
    """Watermark from which the stream continues: above ``watermark`` where the snapshot scan took so long that changes
    were replayed into it."""
    publication: str
    """Fingerprint of the publication from ``watermark`` on."""


class ReplicaRecord(NamedTuple):
    """What a store keeps for a replica."""

    acked: str | None
    """The newest watermark that a streaming session of the replica has acknowledged. None: the record is provisional,
    for a replica that may never come back (``PROVISIONAL_SECONDS``)."""
    copies: tuple[CopyRecord, ...]
    """At least one, in the order of their watermarks."""

    @property
    def confirmed(self) -> str:
        """Return the newest watermark that the replica certainly has."""
        return self.acked or self.copies[0].watermark

    @property
    def newest(self) -> str:
        """Return the newest watermark in the record."""
        return max(self.confirmed, self.copies[-1].watermark)

    def latest_copy(self, watermark: str) -> CopyRecord | None:
        """Return the newest copy at or below a watermark."""
        return next((copy for copy in reversed(self.copies) if copy.watermark <= watermark), None)

    def with_copy(self, copy: CopyRecord) -> ReplicaRecord:
        """Return a record with a copy added, or with the copy at the same watermark replaced.

        Beyond ``COPIES`` copies, the oldest copy whose predecessor has the same publication is dropped, or else the
        oldest one: a replica that never receives a schema change requests it repeatedly, and must keep its own base.
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
    """What distinguishes this database from another one at the same address."""

    set_id: str | None
    """The replica set's id; None if the user may not read it."""
    collections: dict[str, str]
    """Collection name -> UUID."""
    database: str | None = None
    """The database's name; None in a record of an older zmsd."""


class Contents(NamedTuple):
    """Everything that a store keeps, for ``zmsd store``."""

    replicas: dict[Replica, ReplicaRecord]
    checkpoints: dict[str, str]
    """Watermark -> resume token."""
    publications: dict[str, str]
    """Fingerprint -> the publication as JSON."""
    epochs: Sequence[str]
    identity: Identity | None
    invalid: tuple[str, str] | None
    """As of ``invalidated_below``."""


COPIES = 100
"""Maximum number of copies in a record."""
REPLICAS = 100
"""Maximum number of replicas of a shard; the replica with the oldest newest watermark is dropped first."""
REPLICA_SECONDS = 30 * 24 * 3600
"""Age of a replica's newest watermark after which its record is dropped, once its shard has a newer replica. A client
that reconnects later receives reset-required."""
PROVISIONAL_SECONDS = 3600
"""The same age for a replica that has never acknowledged a change, as one of a client that connected only once."""
CHECKPOINTS = 1000
"""Checkpoints that are kept below the newest one, in addition to those that some replica has not yet confirmed."""
CHECKPOINTS_AT_MOST = 100_000
"""Maximum number of checkpoints, about a day of them, if a replica never confirms any."""


class WatermarkStore(Protocol):
    """A watermark store. Thread-safe; each method raises StoreError."""

    @property
    def trouble(self) -> str | None:
        """Return why writing fails at present, or None. Writing resumes without an operator once the cause is gone."""
        ...

    def replica(self, replica: Replica) -> ReplicaRecord | None:
        """Return the record of a replica, including what another daemon has just written; None if there is none."""
        ...

    def replicas(self) -> dict[Replica, ReplicaRecord]:
        """Return the records of all replicas."""
        ...

    def record_copy(self, replica: Replica, copy: CopyRecord) -> None:
        """Record an initial sync or a schema change. Call it before its commit is sent.

        It removes no copy but those that ``with_copy`` removes.
        """
        ...

    def record_ack(self, replica: Replica, watermark: str) -> None:
        """Record an ack of a streaming session; without effect for an unknown replica or an older watermark."""
        ...

    def record_checkpoint(self, watermark: str, token: str) -> None:
        """Record the resume token of a watermark's last event, and drop checkpoints far below all acks."""
        ...

    def latest_checkpoint(self, watermark: str) -> tuple[str, str] | None:
        """Return the newest (watermark, token) at or below a watermark; None if there is none."""
        ...

    def load_identity(self) -> Identity | None:
        """Return the identity of the database that the store belongs to; None before ``save_identity``."""
        ...

    def save_identity(self, identity: Identity) -> None:
        """Replace the identity of the database."""
        ...

    def invalidated_below(self) -> tuple[str, str] | None:
        """Return (watermark, reason): copies below the watermark belong to another database or a lost history."""
        ...

    def invalidate(self, watermark: str, reason: str) -> None:
        """Declare all copies below a watermark invalid."""
        ...

    def load_publication(self, fingerprint: str) -> str | None:
        """Return the publication with a fingerprint, as ``save_publication`` received it; None if it is unknown."""
        ...

    def save_publication(self, fingerprint: str, document: str) -> None:
        """Save a publication as JSON, unless its fingerprint is known."""
        ...

    def epochs(self) -> Sequence[str]:
        """Return the fingerprints that the daemons on this store have published, oldest first.

        All daemons serve the last one. Empty for a store of one daemon.
        """
        ...

    def append_epoch(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        """Make a publication the next epoch of all daemons. Return False if the epochs are no longer ``after``.

        The write is not queued: StoreError if the store cannot take it now.
        """
        ...

    def on_epoch_change(self, notify: Callable[[], None]) -> None:
        """Call ``notify`` in another thread whenever the epochs may have changed. It replaces an earlier one."""
        ...

    def contents(self) -> Contents:
        """Return everything that the store keeps."""
        ...

    def forget_replica(self, replica: Replica) -> None:
        """Remove the record of a replica."""
        ...

    def forget_publication(self, fingerprint: str) -> None:
        """Remove a publication."""
        ...

    def probe(self) -> None:
        """Try to write, which updates ``trouble``."""
        ...

    def close(self) -> None:
        """Write what is queued, within seconds, and release the file or the connection."""
        ...


def outdated(replicas: Mapping[Replica, ReplicaRecord], now: str) -> list[Replica]:
    """Return the replicas whose records may be dropped.

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
