"""Session: serve one client, from its initial sync or its watermark on."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from threading import Event

from zmsd import position
from zmsd.errors import (
    Evicted,
    PeerGone,
    PeerProtocolError,
    ResumeLost,
    SourceError,
    SourceUnavailable,
    Stopped,
    StoreError,
)
from zmsd.gateway.acks import Acks
from zmsd.gateway.join_delay import JoinDelay
from zmsd.gateway.joining import JOIN_BYTES, JOIN_ROWS, TransactionJoiner
from zmsd.gateway.lag import LagReports
from zmsd.gateway.subscription import Subscription
from zmsd.gateway.websocket import GOING_AWAY, PROTOCOL_ERROR, Peer
from zmsd.log import kv
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.copy_transaction import CopyTransaction
from zmsd.replication.hub import Hub
from zmsd.replication.initial_sync import InitialSync
from zmsd.replication.replicas import Base, ReplicaBook
from zmsd.replication.schema_change import SchemaChange
from zmsd.retry import retry_while_unavailable
from zmsd.watermarks.base import CopyRecord, Replica
from zmsd.zero import protocol

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""Longest wait for changes, and so between looks at the client's messages and at ``stop``."""
RESET_SECONDS = 10.0
"""Time for a client to act on reset-required before its connection is closed."""
RECONNECT_DELAY_SECONDS = 1.0
"""Delay before a failed session is closed, because zero-cache reconnects after 30 ms without a backoff
(``packages/zero-cache/src/services/change-source/custom/change-source.ts``)."""


class Session:
    """Serve one client. ``run`` is the session's thread; ``stop``, ``kill`` and the properties are thread-safe."""

    def __init__(self, number: int, address: str, subscription: Subscription, hub: Hub) -> None:
        self.number = number
        self.address = address
        self.subscription = subscription
        self.since = time.time()
        self.sent = subscription.last_watermark
        """Watermark of the newest transaction that the client has or was sent completely."""
        self.rows = 0
        self.bytes = 0
        self.state = "waiting"
        self.copy: CopyTransaction | None = None
        """The running initial sync or schema change."""
        self._hub = hub
        self._stop = Event()
        self._peer: Peer | None = None
        self._watermark = ""  # everything up to it was sent
        self._initial_watermark = ""  # of the initial sync
        self._client_publication = hub.active.publication  # the one that the client has
        self._passes: str | None = None  # see Base.passes
        self._joiner = TransactionJoiner(subscription.shard_name, subscription.last_watermark)
        self._delay = JoinDelay(0 if subscription.observer else hub.join_delay)  # which sees each commit
        streaming = subscription.last_watermark is not None
        app, shard, version = subscription.app, subscription.shard, subscription.replica_version
        self._book = ReplicaBook(hub.store, app, shard, version, writes=not subscription.observer)
        self._acks = Acks(self._book, streaming=streaming)
        self._lag = LagReports(hub) if streaming and not subscription.observer else None

    @property
    def acked(self) -> str | None:
        """Return the newest watermark that the client has acknowledged on this connection."""
        return self._acks.newest

    @property
    def replica(self) -> Replica:
        """Return the client's replica. Its version is empty before the commit of an initial sync."""
        return self._book.replica

    @property
    def streamed_to(self) -> str | None:
        """Return the watermark up to which everything was sent: above ``sent`` if a long scan replayed changes."""
        return None if self.sent is None else max(self.sent, self._watermark)

    def run(self, peer: Peer) -> None:
        """Serve the client until it disconnects or the session is stopped. Session's thread only.

        1. Look up the replica (``_serve``) before waiting for anything: while this session waits, the same zero-cache
           may reconnect and get a newer schema change.
        2. Wait until the live feed runs, so that MongoDB is prepared and the lineage is known (invariant 3).
        3. Send an initial sync, or continue from the client's watermark (``_resume``).
        4. Stream (``_stream``): check the lineage, bring the client to the active publication, send changes, and begin
           this step again whenever the publication, the lineage or the log generation has changed. An open transaction
           is completed or rolled back first, because zero-cache ends on a second begin.
        5. If a position cannot be resumed, ask for a new initial sync (``_reset``, invariant 6).
        6. Close the connection with the reason, then write the newest ack, and log the end.

        Errors that a client, MongoDB or the store can cause end the session and are logged; the method does not raise
        them.
        """
        self._peer = peer
        subscription = self.subscription
        fields = {"session": self.number, "app": subscription.app, "shard": subscription.shard}
        log.info(kv("session begins", **fields, address=self.address, last_watermark=subscription.last_watermark))
        reason = "stopped"
        try:
            with suppress(Stopped):  # raised by a wait for MongoDB
                self._serve()
            peer.close(GOING_AWAY, "zmsd stops")
        except PeerGone as error:
            reason = str(error)
        except PeerProtocolError as error:
            reason = str(error)
            log.warning(kv("client broke the protocol", **fields, error=error))
            peer.close(PROTOCOL_ERROR, reason)
        except (SourceError, StoreError) as error:
            reason = str(error)
            log.error(kv("session failed", **fields, error=error))
            self._stop.wait(RECONNECT_DELAY_SECONDS)
            peer.close(GOING_AWAY, reason)
        finally:
            peer.kill()
            self._acks.write(now=True)
            log.info(kv("session ends", **fields, rows=self.rows, bytes=self.bytes, sent=self.sent, reason=reason))

    def stop(self) -> None:
        """End the session after a complete transaction. Thread-safe."""
        self._stop.set()

    def kill(self) -> None:
        """End the session at once, also if it is blocked in a send. Thread-safe."""
        self._stop.set()
        if self._peer is not None:
            self._peer.kill()

    def end_if_unreachable(self) -> None:
        """End the session if the client's host no longer acknowledges data. Call it every few seconds. Thread-safe."""
        if self._peer is not None:
            self._peer.end_if_unreachable()

    def _serve(self) -> None:
        subscription = self.subscription
        try:
            if subscription.foreign is not None:
                raise ResumeLost(subscription.foreign, "foreign-watermark")
            if subscription.last_watermark is None:
                self._wait_ready()
                self._run_initial_sync()
                self._stream()
                return
            base = self._book.find(subscription.last_watermark, self._hub.active.publication)
            if subscription.observer:
                self._resume(base)
                return
            self._joiner.commits = self._acks.commits = self._hub.replicas.add(self._book.replica, self.sent or "")
            try:
                self._resume(base)
            finally:
                self._hub.replicas.remove(self._book.replica)
        except ResumeLost as error:
            self._reset(error)

    def _stream(self) -> None:
        """Send changes until stopped. Raises ResumeLost, SourceError, StoreError and PeerGone."""
        while not self._stop.is_set():
            try:
                self._send_changes(self._hub.active)
            except Evicted:
                self._roll_back()
            except SourceUnavailable:  # the catch-up feed lost its connection
                self._roll_back()
                self._stop.wait(0.1)
                self._wait_ready()

    def _wait_ready(self) -> None:
        """Wait until the live feed runs. Raises Stopped if the session is stopped."""
        while not self._hub.readiness.wait(WAIT_SECONDS):
            self._process_acks()
            if self._stop.is_set():
                raise Stopped

    def _resume(self, base: Base) -> None:
        """Stream to a client that has a replica. An unknown one, as after a loss of the store, is taken to have the
        active publication."""
        self._wait_ready()
        self._watermark, self._passes = base.watermark, base.passes
        if base.publication is None:
            # Recorded, so that the assumption is not made with another publication at the next reconnect.
            self._client_publication = self._hub.active.publication
            self._book.add(
                CopyRecord(base.watermark, base.watermark, self._client_publication.fingerprint),
                self._client_publication,
            )
        else:
            self._client_publication = base.publication
        self._initial_watermark = self._book.replica.version
        self._stream()

    def _run_initial_sync(self) -> None:
        """Send an initial sync. Raises SourceUnavailable if it must begin again."""
        hub, asked, newest = self._hub, self.subscription, self._book.newest_initial_sync()
        sync = InitialSync(hub.source, hub.active, asked.app, asked.shard, self._stop, newest, hub.initial_sync_rows)
        try:
            self._send_copy(sync)
        except ResumeLost as error:
            raise SourceUnavailable(f"the initial sync must begin again: {error}") from error
        if not asked.observer:
            self._hub.replicas.unacknowledged(self._book.replica).sent(self._initial_watermark)

    def _apply_schema_change(self, active: ActivePublication) -> None:
        """Take the client to the active publication. Raises ResumeLost if Zero cannot follow the change."""
        asked, recorded, after = self.subscription, self._book.newest(), self._watermark
        source, old = self._hub.source, self._client_publication
        change = SchemaChange(source, active, asked.app, asked.shard, self._stop, after, old, recorded)
        self._send_copy(change)
        self._passes = None

    def _send_copy(self, copy: CopyTransaction) -> None:
        """Send a copy transaction, whose watermark rises too (invariant 1). The last chunk, which has the commit, is
        held back until the lineage is checked and the store has the record (invariant 4)."""
        assert self.sent is None or copy.watermark > self.sent, f"watermark {copy.watermark} after {self.sent}"
        self.state, self.copy = "copying", copy
        log.info(kv(f"{copy.name} started", session=self.number, watermark=copy.watermark))
        held = b""
        for frames in copy.frames():
            if held:
                self._send(held)
                # A client with a replica can roll back to it; an unfinished initial sync ends with the connection.
                self._joiner.open = None if self.sent is None else copy.watermark
            held = frames
            self._process_acks()
            if self._stop.is_set():
                raise Stopped  # the client discards the unfinished transaction
        # Rows that were read later than the position may come from another lineage, if that has changed meanwhile.
        at = position.watermark(copy.at)
        first = self._initial_watermark or at
        retry_while_unavailable("session", lambda: self._hub.lineage.check_replica(at, first), self._stop)
        # Recorded before the commit is sent: the client may reconnect with it at once, to any daemon on the store.
        self._book.add(copy.record, copy.active.publication)
        self._send(held)
        self.copy = self._joiner.open = None
        self.rows += copy.progress.rows
        self._hub.counters.sent_rows.inc(copy.progress.rows)
        self._joiner.committed = self.sent = copy.watermark
        self._watermark = copy.record.stream_from
        self._initial_watermark = self._initial_watermark or copy.watermark
        self._client_publication = copy.active.publication
        seconds = time.monotonic() - copy.progress.started
        log.info(kv(f"{copy.name} finished", session=self.number, rows=copy.progress.rows, seconds=seconds))

    def _send_changes(self, active: ActivePublication) -> None:
        """Send the changes after the client's watermark until stopped, or until ``active`` is replaced.

        Raises Evicted, ResumeLost, SourceError, StoreError and PeerGone.
        """
        epochs = self._hub.store.epochs()
        if epochs and epochs[-1] != active.fingerprint:
            # Another daemon has published a newer one, and may have sent it to this client. This daemon follows soon.
            self._stop.wait(0.1)
            return self._process_acks()
        lineage = self._hub.lineage
        distrust_count = lineage.distrust_count
        retry_while_unavailable(
            "session", lambda: lineage.check_replica(self._watermark, self._initial_watermark), self._stop
        )
        if self._client_publication.fingerprint != active.fingerprint or self._passes is not None:
            self._apply_schema_change(active)
        changes = self._hub.catch_up.changes(self._watermark, active, self._stop, self._is_given_up, self.kill)
        again = self._joiner.commits.after(self._watermark)
        self.state = "streaming"
        try:
            while self._joiner.open is not None or not (
                self._stop.is_set() or self._hub.active is not active or lineage.distrust_count != distrust_count
            ):
                self._process_acks()
                if self._lag is not None and self._joiner.open is None and (report := self._lag.due(self._watermark)):
                    self._send(report)
                if self._joiner.open is None and (delay := self._delay.remaining(self.acked)):
                    self._process_acks(delay)
                    continue
                entries = changes.take(JOIN_ROWS, JOIN_BYTES, WAIT_SECONDS)
                if self._joiner.open is None and self._hub.active is not active:
                    break  # another stream of the replica may have got the schema change already
                if entries:
                    frames = self._joiner.frames(self._watermark, entries, again)
                    rows = sum([entry.rows for entry in entries])
                    if self._joiner.committed != self.sent:
                        self._watermark = self.sent = self._joiner.committed or ""
                        self._delay.sent(self.sent, rows)
                    self.rows += rows
                    self._send(frames)  # if this fails, the session ends
                    self._hub.counters.sent(entries, self.since, self.number)
                elif self._stop.is_set():
                    break  # the log is closed, so the rest of the open transaction does not come
        finally:
            changes.close()

    def _send(self, frames: bytes) -> None:
        """Send complete frames. Blocks while the client does not read. Raises PeerGone."""
        assert self._peer is not None
        self._peer.send(frames)
        self.bytes += len(frames)
        self._hub.counters.sent_bytes.inc(len(frames))

    def _roll_back(self) -> None:
        """Roll back the transaction that the client has open, if any."""
        self.copy = None
        if self._joiner.open is not None:
            self._joiner.open = None
            self._send(protocol.ROLLBACK)

    def _reset(self, error: ResumeLost) -> None:
        """Ask the client for a new initial sync, because its position cannot be resumed (invariant 6)."""
        self.state = "reset"
        self._hub.counters.resets.inc()
        log.error(
            kv("position lost, reset required", session=self.number, code=error.code, sent=self.sent, reason=error)
        )
        self._roll_back()
        start = self._hub.source.oplog_start() if self._hub.readiness.reason is None else None
        oplog_start = None if start is None else position.watermark(start)
        self._send(protocol.reset_required(str(error), error.code, self.sent, oplog_start))
        end = time.monotonic() + RESET_SECONDS
        while time.monotonic() < end and not self._stop.wait(0.1):
            self._process_acks()

    def _is_given_up(self) -> bool:
        """Return whether to stop waiting for a catch-up feed."""
        self._process_acks()
        return self._stop.is_set()

    def _process_acks(self, seconds: float = 0.0) -> None:
        """Read the client's acks, after waiting for one at most ``seconds``. Raises PeerGone and PeerProtocolError."""
        assert self._peer is not None
        self._peer.wait(seconds)
        for message in self._peer.received():
            self._acks.take(message, self.sent)
        self._acks.write(now=False)
