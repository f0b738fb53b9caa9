"""What a watermark store keeps: the little that cannot be derived from MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class ShardRecord(NamedTuple):
    """One zero-cache, ``(appID, shardNum)``."""

    replica_version: str
    """Watermark of its first copy."""
    acked: str | None
    """The newest watermark that it has confirmed."""


class CopyRecord(NamedTuple):
    """A copy that went to a shard: its first one, or that of the tables that a new edition has changed."""

    watermark: str
    stream_from: str
    """Watermark from which the stream goes on after it: above ``watermark`` where the copy took so long that changes
    were replayed into it."""
    edition: str
    """Fingerprint of what is published from then on."""


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

    shards: dict[tuple[str, int], ShardRecord]
    copies: dict[tuple[str, int], list[CopyRecord]]
    """In the order of their watermarks."""
    checkpoints: dict[str, str]
    """Watermark -> token."""
    editions: dict[str, str]
    """Fingerprint -> document."""
    epochs: Sequence[str]
    identity: Identity | None
    invalid: tuple[str, str] | None
    """As of ``valid_from``."""


COPIES = 100
"""Copies that are known of a shard."""
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

    def shard(self, app: str, number: int) -> ShardRecord | None: ...

    def shards(self) -> dict[tuple[str, int], ShardRecord]: ...

    def copied_first(self, app: str, number: int, copy: CopyRecord) -> None:
        """A first copy is on its way to a shard; what was known of the shard is void."""
        ...

    def copied(self, app: str, number: int, copy: CopyRecord) -> None:
        """A further copy is on its way to a shard."""
        ...

    def copy_before(self, app: str, number: int, watermark: str) -> CopyRecord | None:
        """The newest copy of a shard at or below a watermark."""
        ...

    def forget_copies_above(self, app: str, number: int, watermark: str) -> None:
        """A client comes back with this watermark: what was on its way to it above that has not arrived."""
        ...

    def acked(self, app: str, number: int, watermark: str) -> None: ...

    def checkpoint(self, watermark: str, token: str) -> None:
        """The resume token of a watermark's last event; those far behind all acks are forgotten."""
        ...

    def checkpoint_before(self, watermark: str) -> tuple[str, str] | None:
        """The newest (watermark, token) at or below a watermark."""
        ...

    def identity(self) -> Identity | None: ...

    def identify(self, identity: Identity) -> None: ...

    def valid_from(self) -> tuple[str, str] | None:
        """(watermark, reason): what was copied below belongs to another database, or to a history that is gone."""
        ...

    def invalidate(self, watermark: str, reason: str) -> None: ...

    def edition(self, fingerprint: str) -> str | None:
        """What was published under a fingerprint, as ``add_edition`` got it."""
        ...

    def add_edition(self, fingerprint: str, document: str) -> None: ...

    def epochs(self) -> Sequence[str]:
        """What the daemons that share this store have published, one fingerprint after the other: the last one holds
        for all of them. Empty for a store that only one daemon uses."""
        ...

    def publish(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        """Make an edition the next epoch of all daemons; False where ``after`` are not the epochs any more.

        Nothing is published later: StoreError where that cannot be done now.
        """
        ...

    def watch(self, told: Callable[[], None]) -> None:
        """Have something called, in another thread, when the epochs may have changed. For one caller."""
        ...

    def contents(self) -> Contents: ...

    def forget(self, app: str, number: int) -> None:
        """Drop everything about a shard."""
        ...

    def forget_edition(self, fingerprint: str) -> None: ...

    def close(self) -> None: ...
