"""The watermark store that several daemons share, in buckets of NATS KV."""

from __future__ import annotations

import json
import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from zmsd.config.settings import NatsConfig
from zmsd.errors import StoreError
from zmsd.log import kv
from zmsd.watermarks.base import (
    CHECKPOINTS,
    CHECKPOINTS_AT_MOST,
    Contents,
    CopyRecord,
    Identity,
    Replica,
    ReplicaRecord,
    WatermarkStore,
)
from zmsd.watermarks.nats_buckets import Buckets
from zmsd.watermarks.nats_mirror import Change
from zmsd.watermarks.nats_values import Values, write, write_publication, write_replica

log = logging.getLogger(__name__)

WRITE_SECONDS = 3.0
"""Seconds for which a write is awaited that should be stored before the client receives what it records."""
CHECKPOINT_AGE = 24 * 3600.0
"""Seconds after which NATS drops a resume token."""
_OWN_KEYS = re.compile(r"(replica|shard|edition)\..+|epochs|identity|invalid|database")


class SharedStore(WatermarkStore):
    """The store of several daemons (``watermarks.storage: nats-kv``).

    Keys: ``replica.APP.NUMBER.VERSION``, ``edition.FINGERPRINT``, ``epochs``, ``identity``, ``invalid`` and
    ``database``. A second bucket, whose values expire after a day, has the resume tokens by watermark.
    """

    def __init__(self, settings: NatsConfig, database: str) -> None:
        """Connect and load the buckets.

        Raises StoreError if NATS does not answer, or the bucket belongs to another database or program.
        """
        self._bucket, self._checkpoints = settings.bucket, f"{settings.bucket}-checkpoints"
        self._notify: Callable[[], None] = lambda: None
        self._buckets = Buckets(settings, {self._bucket: None, self._checkpoints: CHECKPOINT_AGE}, self._changed)
        self._mirror = self._buckets.mirror
        self._values = Values(self._bucket)
        self._refuse_foreign()
        self._claim(database)
        self._migrate()

    @property
    def trouble(self) -> str | None:
        trouble = self._mirror.trouble
        return None if trouble is None else f"NATS: {trouble}"

    def replica(self, replica: Replica) -> ReplicaRecord | None:
        # The clients of a daemon that died connect here immediately, and need what it wrote last.
        self._buckets.refresh(self._bucket, _replica_key(replica), "epochs")
        return self._record(replica)

    def replicas(self) -> dict[Replica, ReplicaRecord]:
        values = self._mirror.values(self._bucket)
        found = [self._values.replica(key, value) for key, value in values.items() if key.startswith("replica.")]
        return dict(filter(None, found))

    def record_copy(self, replica: Replica, copy: CopyRecord) -> None:
        change = self._change(copy.watermark, replica, lambda record: record.with_copy(copy))
        fields = {"app": replica.app, "shard": replica.shard, "replica": replica.version}
        self._write_now("initial sync or schema change", change, **fields)

    def record_ack(self, replica: Replica, watermark: str) -> None:
        def update(record: ReplicaRecord) -> ReplicaRecord:
            newer = record.copies and watermark > (record.acked or "")
            return record._replace(acked=watermark) if newer else record

        known = self._record(replica)
        # It replaces a queued ack, and must not be below it.
        if known is not None and watermark > (known.acked or ""):
            self._change("ack", replica, update)

    def record_checkpoint(self, watermark: str, token: str) -> None:
        value = token.encode()
        self._mirror.change(("checkpoint", watermark), self._checkpoints, watermark, lambda _: value)
        marks = sorted(self._mirror.values(self._checkpoints))
        kept_anyway = max(len(marks) - CHECKPOINTS - 1, 0)
        if kept_anyway:
            confirmed = min((record.confirmed for record in self.replicas().values()), default="~")
            behind = min(bisect_left(marks, confirmed), kept_anyway)
            behind = max(behind, len(marks) - CHECKPOINTS_AT_MOST)
            if behind:
                self._mirror.purge(self._checkpoints, marks[:behind])

    def latest_checkpoint(self, watermark: str) -> tuple[str, str] | None:
        known = self._mirror.values(self._checkpoints)
        for mark in sorted((mark for mark in known if mark <= watermark), reverse=True):
            if (token := self._values.token(mark, known[mark])) is not None:
                return mark, token
        return None

    def load_identity(self) -> Identity | None:
        return self._values.identity(self._mirror.value(self._bucket, "identity"))

    def save_identity(self, identity: Identity) -> None:
        set_id, collections, database = identity
        self._set("identity", {"setId": set_id, "collections": collections, "database": database})

    def invalidated_below(self) -> tuple[str, str] | None:
        return self._values.invalid(self._mirror.value(self._bucket, "invalid"))

    def invalidate(self, watermark: str, reason: str) -> None:
        self._set("invalid", {"below": watermark, "reason": reason})

    def load_publication(self, fingerprint: str) -> str | None:
        key = _key("edition", fingerprint)
        if self._mirror.value(self._bucket, key) is None:
            self._buckets.refresh(self._bucket, key)
        return self._values.publication(key, self._mirror.value(self._bucket, key))

    def save_publication(self, fingerprint: str, document: str) -> None:
        if self.load_publication(fingerprint) is None:
            self._write_now("publication", self._save_publication(fingerprint, document), fingerprint=fingerprint)

    def epochs(self) -> Sequence[str]:
        return self._values.epochs(self._mirror.value(self._bucket, "epochs"))

    def append_epoch(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        before, then = tuple(after), (*after, fingerprint)

        def update(old: bytes | None) -> bytes | None:
            return write(then) if self._values.epochs(old) == before else old

        documented = self._save_publication(fingerprint, document)
        change = self._mirror.change("epochs", self._bucket, "epochs", update)
        if not self._mirror.wait(change, WRITE_SECONDS, withdraw=True):
            self._mirror.wait(documented, 0, withdraw=True)
            raise StoreError(
                "the publication cannot be agreed on with the other daemons: the watermark store is unavailable "
                f"({self.trouble or 'it does not answer'}): try again once NATS answers"
            )
        return self.epochs() == then

    def on_epoch_change(self, notify: Callable[[], None]) -> None:
        self._notify = notify

    def contents(self) -> Contents:
        prefix = "edition."
        publications = [key for key in self._mirror.values(self._bucket) if key.startswith(prefix)]
        marks = sorted(self._mirror.values(self._checkpoints).items())
        checkpoints = {mark: self._values.token(mark, value) for mark, value in marks}
        return Contents(
            self.replicas(),
            {mark: token for mark, token in checkpoints.items() if token is not None},
            {_text(key): self.load_publication(_text(key)) or "" for key in publications},
            self.epochs(),
            self.load_identity(),
            self.invalidated_below(),
        )

    def forget_replica(self, replica: Replica) -> None:
        key = _replica_key(replica)
        self._write_now("forgetting", self._mirror.change(("forget", key), self._bucket, key, lambda _: None))

    def forget_publication(self, fingerprint: str) -> None:
        key = _key("edition", fingerprint)
        self._write_now("forgetting", self._mirror.change(("forget", key), self._bucket, key, lambda _: None))

    def probe(self) -> None:
        """Do nothing: the connection probes by itself."""

    def close(self) -> None:
        self._buckets.close()

    def _refuse_foreign(self) -> None:
        """Raise StoreError for a bucket of another program, before writing to it."""
        foreign = [key for key in self._mirror.values(self._bucket) if not _OWN_KEYS.fullmatch(key)]
        if foreign:
            self.close()
            names = ", ".join(sorted(foreign)[:3])
            raise StoreError(
                f"the bucket {self._bucket} belongs to another program (it has the keys {names[:200]}): "
                "set nats.bucket to a bucket of zmsd's own"
            )

    def _claim(self, database: str) -> None:
        """Reserve the bucket for this database: two databases in one bucket would invalidate each other's positions."""
        name = write(database)
        change = self._mirror.change("claim", self._bucket, "database", lambda old: old or name)
        self._write_now("database", change)
        claimed = self._mirror.value(self._bucket, "database") or name
        owner = database if claimed == name else claimed.decode(errors="replace").strip('"')
        if owner != database:
            self.close()
            raise StoreError(
                f"the bucket {self._bucket} belongs to zmsd for database {owner}, not {database}: "
                "set nats.bucket to a bucket of this database"
            )

    def _changed(self, bucket: str, key: str) -> None:
        if bucket == self._bucket and key in ("epochs", ""):
            self._notify()

    def _set(self, key: str, value: Any) -> None:
        text = write(value)
        self._write_now(key, self._mirror.change(key, self._bucket, key, lambda _: text))

    def _save_publication(self, fingerprint: str, document: str) -> Change:
        key, value = _key("edition", fingerprint), write_publication(document)

        def update(old: bytes | None) -> bytes | None:
            return value if self._values.publication(key, old) is None else old

        return self._mirror.change(("edition", key), self._bucket, key, update)

    def _record(self, replica: Replica) -> ReplicaRecord | None:
        key = _replica_key(replica)
        known = self._values.replica(key, self._mirror.value(self._bucket, key))
        return None if known is None else known[1]

    def _change(self, name: str, replica: Replica, update: Callable[[ReplicaRecord], ReplicaRecord]) -> Change:
        key = _replica_key(replica)

        def updated(old: bytes | None) -> bytes | None:
            readable = self._values.replica(key, old)
            known = ReplicaRecord(None, ()) if readable is None else readable[1]
            record = update(known)
            return old if record == known else write_replica(replica, record)

        return self._mirror.change((name, key), self._bucket, key, updated)

    def _migrate(self) -> None:
        """Convert the records of an older zmsd, one for each shard (``shard.APP.NUMBER``), to records of replicas.

        Daemons that start at the same time write the same values.
        """
        old = {key: value for key, value in self._mirror.values(self._bucket).items() if key.startswith("shard.")}
        for key, value in old.items():
            known = json.loads(value)
            record = ReplicaRecord(known["acked"], tuple(CopyRecord(*copy) for copy in known["copies"]))
            replica = Replica(known["app"], known["number"], "")
            if record.copies:
                change = self._change("migrate", replica, partial(_instead, record))
                if not self._mirror.wait(change, WRITE_SECONDS):
                    self.close()
                    raise StoreError(f"the bucket {self._bucket} cannot be written: {self.trouble or 'no answer'}")
            self._mirror.change(("forget", key), self._bucket, key, lambda _: None)

    def _write_now(self, what: str, change: Change, **fields: object) -> None:
        """Wait for a write for ``WRITE_SECONDS``. After that it stays queued, and is lost only if this daemon dies."""
        if not self._mirror.wait(change, WRITE_SECONDS):
            trouble = self.trouble or "NATS does not answer"
            log.warning(kv("written later, other daemons do not know it yet", what=what, **fields, reason=trouble))


def _instead(new: ReplicaRecord, _old: ReplicaRecord) -> ReplicaRecord:
    return new


def _key(kind: str, text: str) -> str:
    """Return a key for a text. Characters that NATS does not allow in keys are written as ``=HEX=``."""
    return f"{kind}." + re.sub(r"[^A-Za-z0-9_-]", lambda found: f"={ord(found[0]):x}=", text)


def _text(key: str) -> str:
    """Return the text that ``_key`` was given."""
    return re.sub("=([0-9a-f]+)=", lambda found: chr(int(found[1], 16)), key.partition(".")[2])


def _replica_key(replica: Replica) -> str:
    return f"{_key('replica', replica.app)}.{replica.shard}.{replica.version.replace('.', '_') or '-'}"
