"""The values of the store in NATS: how they are written, and read if zmsd can have written them.

Another program or an operator's tool may have written to the bucket. A value that zmsd cannot have written counts as
absent, and is logged once, until its key has a readable value.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

from zmsd.log import kv
from zmsd.watermarks.base import CopyRecord, Identity, Replica, ReplicaRecord
from zmsd.watermarks.record_checks import readable

log = logging.getLogger(__name__)

T = TypeVar("T")


class Values:
    """Reads the values of one store. Thread-safe."""

    def __init__(self, bucket: str) -> None:
        """:param bucket: name for the log"""
        self._bucket = bucket
        self._reported: set[str] = set()  # keys whose value was unreadable when it was last read

    def replica(self, key: str, value: bytes | None) -> tuple[Replica, ReplicaRecord] | None:
        """Return a replica and its record, or None if the value is absent or unreadable."""
        return self._read(key, value, _replica)

    def identity(self, value: bytes | None) -> Identity | None:
        """Return the identity of the database, or None if the value is absent or unreadable."""
        return self._read("identity", value, _identity)

    def invalid(self, value: bytes | None) -> tuple[str, str] | None:
        """Return (watermark, reason), or None if the value is absent or unreadable."""
        return self._read("invalid", value, _invalid)

    def epochs(self, value: bytes | None) -> tuple[str, ...]:
        """Return the fingerprints, oldest first; none if the value is absent or unreadable."""
        return self._read("epochs", value, _epochs) or ()

    def publication(self, key: str, value: bytes | None) -> str | None:
        """Return a publication's document, or None if the value is absent or unreadable."""
        return self._read(key, value, _publication)

    def token(self, watermark: str, value: bytes | None) -> str | None:
        """Return the resume token of a checkpoint, or None if the value is absent or unreadable."""
        return self._read(watermark, value, lambda known: _checked("checkpoint", watermark, known.decode())[1])

    def _read(self, key: str, value: bytes | None, read: Callable[[bytes], T]) -> T | None:
        if value is None:
            return None
        try:
            found = read(value)
        except (ValueError, TypeError, KeyError, RecursionError, zlib.error):
            if key not in self._reported:
                self._reported.add(key)
                log.error(kv("unreadable record ignored", bucket=self._bucket, key=key))
            return None
        self._reported.discard(key)
        return found


def write_replica(replica: Replica, record: ReplicaRecord) -> bytes:
    """Return the value of a replica."""
    app, number, version = replica
    return write({"app": app, "number": number, "version": version, "acked": record.acked, "copies": record.copies})


def write_publication(document: str) -> bytes:
    """Return the value of a publication."""
    return zlib.compress(document.encode())


def write(value: Any) -> bytes:
    """Return the JSON of a value."""
    return json.dumps(value).encode()


def _replica(value: bytes) -> tuple[Replica, ReplicaRecord]:
    known = json.loads(value)
    app, number, version, acked = _checked("replica", known["app"], known["number"], known["version"], known["acked"])
    copies = tuple(CopyRecord(*_checked("copy", app, number, version, *copy)[3:]) for copy in known["copies"])
    return Replica(app, number, version), ReplicaRecord(acked, copies)


def _identity(value: bytes) -> Identity:
    known = json.loads(value)
    set_id, collections, database = known["setId"], known["collections"], known.get("database")
    _checked("identity", 1, set_id, json.dumps(collections), database)
    return Identity(set_id, collections, database)


def _invalid(value: bytes) -> tuple[str, str]:
    known = json.loads(value)
    _, below, reason = _checked("invalid", 1, known["below"], known["reason"])
    return below, reason


def _epochs(value: bytes) -> tuple[str, ...]:
    known = json.loads(value)
    if not isinstance(known, list) or not all(isinstance(one, str) for one in known):
        raise ValueError(known)
    return tuple(known)


def _publication(value: bytes) -> str:
    document = zlib.decompress(value).decode()
    _checked("edition", "any", document)
    return document


def _checked(table: str, *row: Any) -> tuple[Any, ...]:
    found = readable(table, row)
    if found is None:
        raise ValueError(row)
    return found
