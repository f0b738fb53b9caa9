"""Which member of a replica set serves a read.

The oplog and the database's identity are read on the primary. Change streams, look-ups and scans go where the URI's
read preference says. A cursor exists on one member only, and a getMore that goes to another one answers CursorNotFound
(43). The driver pins only the cursors that it reads itself, so zmsd pins the ones that it reads by command.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

from pymongo import ReadPreference
from pymongo.errors import AutoReconnect
from pymongo.read_preferences import _ServerMode
from pymongo.server_description import ServerDescription

_LATENCY_WINDOW_SECONDS = 0.015
"""As the driver's ``localThresholdMS``: a member is as good as the nearest one if its round trip takes at most so much
longer."""


class Pin:
    """The member that has a cursor, chosen by the first command that runs with the pin. For one thread at a time."""

    __slots__ = ("address", "preference")

    def __init__(self, preference: _ServerMode = ReadPreference.PRIMARY) -> None:
        self.preference = preference
        self.address: tuple[str, int | None] | None = None

    @property
    def is_primary(self) -> bool:
        """Whether only the primary may be chosen."""
        return self.preference == ReadPreference.PRIMARY


class MemberSelector:
    """The ``server_selector`` of a MongoClient. Thread-safe.

    The driver calls it in the thread that runs a command, with the members that the read preference allows.
    """

    def __init__(self) -> None:
        self._local = local()

    @contextmanager
    def pinned(self, pin: Pin) -> Iterator[None]:
        """Send this thread's commands to one member; AutoReconnect once the member is not allowed any more."""
        self._local.pin = pin
        try:
            yield
        finally:
            self._local.pin = None

    def __call__(self, allowed: list[ServerDescription]) -> list[ServerDescription]:
        pin: Pin | None = getattr(self._local, "pin", None)
        if pin is None:
            return allowed
        if pin.address is None:
            chosen = random.choice(_nearest(allowed))
            pin.address = chosen.address
            return [chosen]
        found = [member for member in allowed if member.address == pin.address]
        if not found:
            host, port = pin.address
            raise AutoReconnect(f"{host}:{port} has the cursor, but the read preference does not allow it any more")
        return found


def _nearest(members: list[ServerDescription]) -> list[ServerDescription]:
    trips = [member.round_trip_time or 0.0 for member in members]
    limit = min(trips) + _LATENCY_WINDOW_SECONDS
    return [member for member, trip in zip(members, trips, strict=True) if trip <= limit]
