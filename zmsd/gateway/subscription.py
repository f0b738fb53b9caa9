"""Subscription: the parameters with which a client asks for the stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zmsd import position

APP_ID_LENGTH = 64
"""Most characters of an appID, which becomes part of table names and store keys."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """The parameters that zero-cache sends (``packages/zero-cache/src/services/change-source/custom/change-source.ts``
    in rocicorp/mono)."""

    app: str
    shard: int
    last_watermark: str | None
    """Watermark up to which the client has everything; None asks for an initial sync."""
    replica_version: str | None
    foreign: str | None = None
    """Why the watermarks of the request are not from zmsd, in which case both are None; else None."""
    observer: bool = False
    """Whether the client is ``zmsd tail``: then nothing is recorded about a replica."""

    @property
    def shard_name(self) -> str:
        """Return the name that zero-cache gives to the shard's tables, ``APP_SHARD``."""
        return f"{self.app}_{self.shard}"


def parse_subscription(query: Mapping[str, Sequence[str]]) -> Subscription:
    """Parse the query of a request. Raises ValueError with the reason."""

    def one(name: str) -> str | None:
        found = query.get(name) or [""]
        return found[-1] or None

    app, shard = one("appID"), one("shardNum")
    if app is None or not app.replace("_", "").isalnum() or not app.isascii():
        raise ValueError("appID is required, of letters, digits and _")
    if len(app) > APP_ID_LENGTH:
        raise ValueError(f"appID must have {APP_ID_LENGTH} characters at most")
    if shard is None or not shard.isascii() or not shard.isdigit() or len(shard) > 9:
        raise ValueError("shardNum is required, an integer from 0")
    last, version = one("lastWatermark"), one("replicaVersion")
    observer = one("observer") == "true"
    for name, mark in (("lastWatermark", last), ("replicaVersion", version)):
        if mark is not None:
            try:
                position.parse(mark)
            except ValueError:
                foreign = f"{name} {mark[:100]!r} is not a watermark of zmsd: the replica is of another change source"
                return Subscription(app, int(shard), None, None, foreign, observer)
    return Subscription(app, int(shard), last, version, None, observer)
