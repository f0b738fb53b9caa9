"""One client: its first copy or its place, then every change, and what it confirms."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
from zmsd.gateway.lag import LagReports
from zmsd.gateway.websocket import GOING_AWAY, PROTOCOL_ERROR, Peer
from zmsd.log import kv
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.change_log import Entry
from zmsd.replication.hub import Hub
from zmsd.replication.initial_sync import Copy, Crossing, Snapshot
from zmsd.replication.replicas import Base, ReplicaBook
from zmsd.retry import retry_while_unavailable
from zmsd.watermarks.base import CopyRecord
from zmsd.zero import protocol

log = logging.getLogger(__name__)

JOIN_ROWS = 1000
JOIN_BYTES = 1 << 20
"""In a backlog so much is sent as one Zero transaction: zero-cache takes 700 transactions/s, or 12,000 rows/s."""
IDLE = 1.0
"""Seconds that a wait for changes lasts at most, and so a look at what the client has sent."""
RESET_PATIENCE = 10.0
"""Seconds that a client is given to act on reset-required before its connection is closed."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client asks for: the query of its request."""

    app: str
    shard: int
    last_watermark: str | None
    replica_version: str | None
    foreign: str | None = None
    """Why the watermarks of the request cannot be this change source's; then both are None."""
    observer: bool = False
    """A person looks (``zmsd tail``): nothing is recorded about the replica."""

    @property
    def shard_name(self) -> str:
        return f"{self.app}_{self.shard}"


class Session:
    """``run`` is the session's thread; ``stop`` and ``kill`` may be called from any."""

    def __init__(self, number: int, address: str, wanted: Subscription, hub: Hub) -> None:
        self.number = number
        self.address = address
        self.wanted = wanted
        self.since = time.time()
        self.sent = wanted.last_watermark
        """Watermark of the newest transaction that the client has, or was sent whole."""
        self.rows = 0
        self.bytes = 0
        self.state = "waiting"
        self.copy: Copy | None = None
        """The copy that is under way."""
        self._hub = hub
        self._stop = Event()
        self._peer: Peer | None = None
        self._place = ""  # everything up to it was sent
        self._begun = ""  # watermark of the first copy
        self._has = hub.active.publication  # what the client's tables are made for
        self._passes: str | None = None  # as of ``Base``
        self._open: str | None = None  # watermark of the transaction that was begun and not yet committed
        self._oldest_ms = 0  # commit time of the oldest change in it
        streaming = wanted.last_watermark is not None
        self._book = ReplicaBook(
            hub.store, wanted.app, wanted.shard, wanted.replica_version, writes=not wanted.observer
        )
        self._acks = Acks(self._book, streaming=streaming)
        self._lag = LagReports(hub) if streaming and not wanted.observer else None

    @property
    def acked(self) -> str | None:
        """The newest watermark that the client has acknowledged on this connection."""
        return self._acks.newest

    @property
    def replica_version(self) -> str | None:
        """None before the commit of an initial sync."""
        return self._book.replica.version or None

    @property
    def streamed_to(self) -> str | None:
        """The watermark up to which everything was sent: later than ``sent`` where a long copy has replayed changes."""
        return None if self.sent is None else max(self.sent, self._place)

    def run(self, peer: Peer) -> None:
        """Until the client goes or the daemon stops; says in the log how it ended. Never raises what a peer can
        cause."""
        self._peer = peer
        wanted = self.wanted
        fields = {"session": self.number, "app": wanted.app, "shard": wanted.shard}
        log.info(kv("session begins", **fields, address=self.address, last_watermark=wanted.last_watermark))
        reason = "stopped"
        try:
            with suppress(Stopped):  # stopped while it waited for MongoDB
                self._serve()
            peer.close(GOING_AWAY, "zmsd stops")
        except PeerGone as error:
            reason = str(error)
        except PeerProtocolError as error:
            reason = str(error)
            log.warning(kv("client is not understood", **fields, error=error))
            peer.close(PROTOCOL_ERROR, reason)
        except (SourceError, StoreError) as error:
            reason = str(error)
            log.error(kv("session failed", **fields, error=error))
            self._stop.wait(1.0)  # zero-cache comes back after 30 ms, without any backoff
            peer.close(GOING_AWAY, reason)
        finally:
            peer.kill()
            self._acks.write(now=True)
            log.info(kv("session ends", **fields, rows=self.rows, bytes=self.bytes, sent=self.sent, reason=reason))

    def stop(self) -> None:
        """End at the end of a transaction."""
        self._stop.set()

    def kill(self) -> None:
        """End at once."""
        self._stop.set()
        if self._peer is not None:
            self._peer.kill()

    def end_if_cut_off(self) -> None:
        """Where the client's machine or the network is gone. Any thread; now and then."""
        if self._peer is not None:
            self._peer.end_if_cut_off()

    def _serve(self) -> None:
        wanted = self.wanted
        try:
            if wanted.foreign is not None:
                raise ResumeLost(wanted.foreign, "foreign-watermark")
            if wanted.last_watermark is None:
                self._wait_ready()
                self._copy()
                self._stream()
                return
            # Before all else: later the client may be connected again, and have been sent another copy.
            base = self._book.find(wanted.last_watermark, self._hub.active.publication)
            if wanted.observer:
                self._resume(base)
                return
            self._hub.connected(self._book.replica)
            try:
                self._resume(base)
            finally:
                self._hub.disconnected(self._book.replica)
        except ResumeLost as error:
            self._reset(error)

    def _stream(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow(self._hub.active)
            except Evicted:
                self._roll_back()
            except SourceUnavailable:  # a private feed has lost MongoDB
                self._roll_back()
                self._stop.wait(0.1)
                self._wait_ready()

    def _wait_ready(self) -> None:
        """Until the feed runs. Raises Stopped when stopped."""
        while not self._hub.readiness.wait(IDLE):
            self._listen()
            if self._stop.is_set():
                raise Stopped

    def _resume(self, base: Base) -> None:
        """Stream to a client that has a replica. Of an unknown replica (the store was lost) the publication is taken to
        be the present one."""
        self._wait_ready()
        self._place, self._passes = base.place, base.passes
        if base.has is None:
            # Written down, or it would be taken for the wrong one after the next change of what is published.
            self._has = self._hub.active.publication
            self._book.add(CopyRecord(base.place, base.place, self._has.fingerprint), self._has)
        else:
            self._has = base.has
        self._begun = self._book.replica.version
        self._stream()

    def _copy(self) -> None:
        """Send the first copy."""
        wanted = self.wanted
        snapshot = Snapshot(self._hub, self._hub.active, wanted.app, wanted.shard, self._stop)
        try:
            self._send_copy(snapshot)
        except ResumeLost as error:
            raise SourceUnavailable(f"the copy is lost, another one begins: {error}") from error

    def _cross(self, active: ActivePublication) -> None:
        """Take the client to an edition that it does not have yet."""
        wanted, recorded = self.wanted, self._book.newest()
        crossing = Crossing(self._hub, active, wanted.app, wanted.shard, self._stop, self._place, self._has, recorded)
        self._send_copy(crossing)
        self._passes = None

    def _send_copy(self, copy: Copy) -> None:
        self.state, self.copy = "copying", copy
        log.info(kv("copy begins", session=self.number, watermark=copy.watermark))
        held = b""
        for frames in copy.frames():
            if held:
                self._send(held)
                # One that has a copy can go back to it; an unfinished first one ends with the connection.
                self._open = None if self.sent is None else copy.watermark
            held = frames
            self._listen()
            if self._stop.is_set():
                raise Stopped  # unfinished: the client throws it away
        # What was not read at the position may be of another history, if that has changed meanwhile.
        at = position.watermark(copy.at)
        retry_while_unavailable("session", lambda: self._hub.lineage.check_replica(at, self._begun or at), self._stop)
        # Kept before the commit is sent: the client may come back with it at once, to any daemon that shares the store.
        self._book.add(copy.record, copy.active.publication)
        self._send(held)
        self.copy = self._open = None
        self.rows += copy.progress.rows
        self._hub.counters.sent_rows.inc(copy.progress.rows)
        self.sent, self._place = copy.watermark, copy.record.stream_from
        self._begun = self._begun or copy.watermark
        self._has = copy.active.publication
        seconds = time.monotonic() - copy.progress.started
        log.info(kv("copy done", session=self.number, rows=copy.progress.rows, seconds=seconds))

    def _follow(self, active: ActivePublication) -> None:
        """Send what happens after the place, until stopped or until there is another edition.

        Raises Evicted, ResumeLost and PeerGone.
        """
        epochs = self._hub.store.epochs()
        if epochs and epochs[-1] != active.fingerprint:
            # Another daemon has published another one, and may have sent it to this client. This one follows soon.
            self._stop.wait(0.1)
            return self._listen()
        lineage = self._hub.lineage
        distrust_count = lineage.distrust_count
        retry_while_unavailable("session", lambda: lineage.check_replica(self._place, self._begun), self._stop)
        if self._has.fingerprint != active.fingerprint or self._passes is not None:
            self._cross(active)
        changes = self._hub.changes(self._place, active, self._stop, self._given_up, self.kill)
        self.state = "streaming"
        try:
            while self._open is not None or not (
                self._stop.is_set() or self._hub.active is not active or lineage.distrust_count != distrust_count
            ):
                self._listen()
                if self._lag is not None and self._open is None and (report := self._lag.due(self._place)):
                    self._send(report)
                entries = changes.take(JOIN_ROWS, JOIN_BYTES, IDLE)
                if self._open is None and self._hub.active is not active:
                    break  # another stream of the replica may have been sent the schema change already
                if entries:
                    self._send(b"".join(self._transaction(entries)))
                    self._hub.counters.sent(entries, self.since)
                elif self._stop.is_set():
                    break  # the rest of an open transaction does not come any more
        finally:
            changes.close()

    def _transaction(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """Join them into one Zero transaction with the last one's watermark; a large one may stay open at the end."""
        shard = self.wanted.shard_name
        end = entries[-1]
        if self._open is None:
            self._oldest_ms = end.commit_ms
            yield protocol.begin(end.watermark)
        elif end.watermark != self._open:
            # The end of the open one is among them: it is closed by itself, its watermark was promised in its begin.
            number = next(index for index, entry in enumerate(entries) if entry.last) + 1
            yield from self._transaction(entries[:number])
            yield from self._transaction(entries[number:])
            return
        yield from [entry.frames for entry in entries]
        of_shard = [entry.shard_frames for entry in entries if entry.shard_frames]
        yield from [frames[shard] for frames in of_shard if shard in frames]  # other tables' than those before
        self.rows += sum([entry.rows for entry in entries])
        # zero-cache keeps the oldest of what it joins (view-syncer/e2e-serving-lag.ts): so its lag shows a backlog.
        self._oldest_ms = min(self._oldest_ms, min([entry.commit_ms for entry in entries]))
        self._open = None if end.last else end.watermark
        if end.last:
            self._place = self.sent = end.watermark  # a commit that cannot be sent ends the session
            yield protocol.commit(end.watermark, self._oldest_ms)

    def _send(self, frames: bytes) -> None:
        assert self._peer is not None
        self._peer.send(frames)
        self.bytes += len(frames)
        self._hub.counters.sent_bytes.inc(len(frames))

    def _roll_back(self) -> None:
        self.copy = None
        if self._open is not None:
            self._open = None
            self._send(protocol.ROLLBACK)

    def _reset(self, error: ResumeLost) -> None:
        """The position is lost: ask the client for a new initial sync."""
        self.state = "reset"
        self._hub.counters.resets.inc()
        fields = {"session": self.number, "code": error.code, "sent": self.sent}
        log.error(kv("position lost, reset required", **fields, reason=error))
        self._roll_back()
        start = self._hub.source.oplog_start() if self._hub.readiness.reason is None else None
        oplog_start = None if start is None else position.watermark(start)
        self._send(protocol.reset_required(str(error), error.code, self.sent, oplog_start))
        end = time.monotonic() + RESET_PATIENCE
        while time.monotonic() < end and not self._stop.wait(0.1):
            self._listen()

    def _given_up(self) -> bool:
        self._listen()
        return self._stop.is_set()

    def _listen(self) -> None:
        """Take what the client has sent: acknowledgements. Raises PeerGone and PeerProtocolError."""
        assert self._peer is not None
        for message in self._peer.received():
            self._acks.take(message, self.sent)
        self._acks.write(now=False)
