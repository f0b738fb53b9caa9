"""ReplicaBook: the records of one session's replica in the watermark store."""

from __future__ import annotations

from typing import NamedTuple

from zmsd.errors import ResumeLost
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import COPIES, CopyRecord, Replica, ReplicaRecord, WatermarkStore

UNKNOWN = "publication-unknown"


class Base(NamedTuple):
    """From where a known replica continues."""

    watermark: str
    """Watermark up to which the replica has everything."""
    publication: Publication | None
    """The publication that the replica has; None: the store has no record of the replica."""
    passes: str | None
    """Watermark of a recorded schema change that lies ahead: another stream of the replica has it, or its commit was
    lost. The publication of a replica is a function of its watermark, so this stream must pass that watermark by a
    schema change of its own."""


class ReplicaBook:
    """The records of one session's replica (invariant 7). Session's thread only; the methods raise StoreError.

    Records are added, never taken back: which streams of the replica have received a schema change is unknown here.
    """

    def __init__(self, store: WatermarkStore, app: str, shard: int, version: str | None, *, writes: bool) -> None:
        """:param version: replicaVersion of the request
        :param writes: False for an observer, about which nothing is recorded
        """
        self._store = store
        self._writes = writes
        self.replica = Replica(app, shard, (version or "") if writes else "")

    def find(self, last: str, current: Publication) -> Base:
        """Look up a replica by its last watermark.

        Raises ResumeLost if its publication was recorded but is unknown now, or if only a newer replica is on record.
        """
        if not self.replica.version:  # an observer, or no zero-cache
            known = [one.version for one in self._of_shard() if one.version <= last]
            self.replica = self.replica._replace(version=max(known, default="") or last)
        record = self._store.replica(self.replica) or self._of_older_zmsd(last)
        if record is None:
            newer = max((one.version for one in self._of_shard()), default="")
            if newer > self.replica.version and self._writes:
                reason = f"nothing is known of this replica, which is older than the replica {newer}"
                raise ResumeLost(reason, UNKNOWN)
            return Base(last, None, None)
        copy = record.latest_copy(last)
        if copy is None:
            older = f"its last {COPIES} schema changes"
            if self.replica.version > last:
                older = f"its own initial sync, {self.replica.version}"
            raise ResumeLost(f"this replica is older than {older}, and the publication that it has is unknown", UNKNOWN)
        newest = record.copies[-1].watermark
        watermark = copy.stream_from if copy.watermark == last else last
        return Base(watermark, self._publication(copy.publication, current), newest if newest > last else None)

    def newest_initial_sync(self) -> str:
        """Return the newest watermark of an initial sync on record for the shard; empty for none."""
        records = (record for replica, record in self._store.replicas().items() if replica[:2] == self.replica[:2])
        return max((record.copies[0].watermark for record in records), default="")

    def newest(self) -> str:
        """Return the watermark of the newest copy on record; empty for none."""
        record = self._store.replica(self.replica) if self.replica.version else None
        return record.copies[-1].watermark if record else ""

    def add(self, copy: CopyRecord, publication: Publication) -> None:
        """Record a copy whose commit is about to be sent (invariant 4). The first one names the replica."""
        if not self.replica.version:
            self.replica = self.replica._replace(version=copy.watermark)
        if self._writes:
            self._store.save_publication(copy.publication, publication.to_json())
            self._store.record_copy(self.replica, copy)

    def acked(self, watermark: str) -> None:
        """Record an ack of the replica."""
        if self._writes:
            self._store.record_ack(self.replica, watermark)

    def _publication(self, fingerprint: str, current: Publication) -> Publication:
        if fingerprint == current.fingerprint:
            return current
        document = self._store.load_publication(fingerprint)
        if document is None:
            raise ResumeLost(f"the publication {fingerprint[:12]} that this replica has is not in the store", UNKNOWN)
        try:
            return Publication.from_json(document)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = f"the publication {fingerprint[:12]} that this replica has cannot be read: {error!r}"
            raise ResumeLost(reason, UNKNOWN) from error

    def _of_shard(self) -> list[Replica]:
        return [one for one in self._store.replicas() if one[:2] == self.replica[:2]]

    def _of_older_zmsd(self, last: str) -> ReplicaRecord | None:
        """Return the record that an older zmsd kept for the whole shard, and take it over, if it fits this replica."""
        whole = self._store.replica(self.replica._replace(version=""))
        if whole is None:
            return None
        copy = whole.latest_copy(last)
        if copy is None:
            reason = f"this replica is older than the newest one on record, {whole.copies[0].watermark}"
            raise ResumeLost(reason, UNKNOWN)
        if copy.watermark < self.replica.version:
            return None
        if self._writes:
            for one in whole.copies:
                self._store.record_copy(self.replica, one)
        return whole
