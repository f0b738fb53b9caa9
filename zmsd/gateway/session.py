"""One client: its first copy or its place, then every change, and what it confirms."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
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
from zmsd.gateway.websocket import GOING_AWAY, PROTOCOL_ERROR, Peer
from zmsd.log import Repeated, kv
from zmsd.mongodb.patience import persist
from zmsd.replication.change_log import Entry
from zmsd.replication.hub import Hub
from zmsd.replication.initial_sync import Copy, Crossing, Snapshot
from zmsd.replication.publication import Edition, Published
from zmsd.watermarks.base import COPIES, CopyRecord
from zmsd.zero import protocol

log = logging.getLogger(__name__)

JOIN_ROWS = 1000
JOIN_BYTES = 1 << 20
"""In a backlog so much is sent as one Zero transaction: zero-cache takes 700 transactions/s, or 12,000 rows/s."""
IDLE = 1.0
"""Seconds that a wait for changes lasts at most, and so a look at what the client has sent."""
ACK_INTERVAL = 1.0
"""Seconds between writes of a client's newest acknowledgement to the store."""
RESET_PATIENCE = 10.0
"""Seconds that a client is given to act on reset-required before its connection is closed."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client asks for: the query of its request."""

    app: str
    shard: int
    last_watermark: str | None
    replica_version: str | None

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
        self.sent: str | None = None
        """Watermark of the newest transaction that was sent whole."""
        self.acked: str | None = None
        self.acked_at = 0.0
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
        self._has = hub.edition.published  # what the client's tables are made for
        self._open: str | None = None  # watermark of the transaction that was begun and not yet committed
        self._ack_written: str | None = None
        self._ack_time = 0.0
        self._store_trouble = Repeated(log, "keeping an acknowledgement")

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
            self._write_ack(now=True)
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
        last = self.wanted.last_watermark
        try:
            known = None if last is None else self._known(last)
            self._wait_ready()
            if last is None:
                self._copy()
            else:
                self._resume(last, known)
            while not self._stop.is_set():
                try:
                    self._follow(self._hub.edition)
                except Evicted:
                    self._roll_back()
                except SourceUnavailable:  # a private feed has lost MongoDB
                    self._roll_back()
                    self._wait_ready()
        except ResumeLost as error:
            self._reset(str(error))

    def _wait_ready(self) -> None:
        """Until the feed runs. Raises Stopped when stopped."""
        while not self._hub.readiness.wait(IDLE):
            self._listen()
            if self._stop.is_set():
                raise Stopped

    def _known(self, last: str) -> CopyRecord | None:
        """The newest copy that a client has. To be asked before all else: later it may be connected anew, and have been
        sent another. Raises ResumeLost where that is not known any more."""
        wanted, store = self.wanted, self._hub.store
        copy = store.copy_before(wanted.app, wanted.shard, last)
        newest = store.shard(wanted.app, wanted.shard)
        if copy is None and newest is not None:
            older = f"the newest copy of {wanted.shard_name}, {newest.replica_version}"
            if newest.replica_version <= last:
                older = f"the last {COPIES} changes of what is published"
            raise ResumeLost(f"this replica is older than {older}, and what was published for it is not known any more")
        store.forget_copies_above(wanted.app, wanted.shard, last)
        if copy is not None and copy.watermark < (wanted.replica_version or ""):
            return None  # of an earlier life of it: the copy that it has was never written down
        return copy

    def _resume(self, last: str, copy: CopyRecord | None) -> None:
        """The place and the edition of a client that has a copy. What is not known of it (the store was lost) is taken
        to be as it is now."""
        wanted, store = self.wanted, self._hub.store
        self._place = last
        self._has = self._hub.edition.published
        if copy is None:
            # Written down, or it would be taken for the wrong one after the next change of what is published.
            store.add_edition(self._has.fingerprint, self._has.to_json())
            store.copied_first(wanted.app, wanted.shard, CopyRecord(last, last, self._has.fingerprint))
        else:
            self._place = copy.stream_from if copy.watermark == last else last
            document = store.edition(copy.edition)
            self._has = Published.from_json(document) if document is not None else self._has
        self._begun = wanted.replica_version or last
        self.sent = last

    def _copy(self) -> None:
        """Send the first copy."""
        edition, wanted, store = self._hub.edition, self.wanted, self._hub.store
        snapshot = Snapshot(self._hub, edition, wanted.app, wanted.shard, self._stop)
        try:
            self._send_copy(snapshot, lambda: store.copied_first(wanted.app, wanted.shard, snapshot.record))
        except ResumeLost as error:
            raise SourceUnavailable(f"the copy is lost, another one begins: {error}") from error

    def _cross(self, edition: Edition) -> None:
        """Take the client to an edition that it does not have yet."""
        wanted, store = self.wanted, self._hub.store
        crossing = Crossing(self._hub, edition, wanted.app, wanted.shard, self._stop, self._place, self._has)
        self._send_copy(crossing, lambda: store.copied(wanted.app, wanted.shard, crossing.record))

    def _send_copy(self, copy: Copy, keep: Callable[[], None]) -> None:
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
        persist("session", lambda: self._hub.history.check_copy(at, self._begun or at), self._stop)
        # Kept before the commit is sent: the client may come back with it at once, to any daemon that shares the store.
        self._hub.store.add_edition(copy.edition.fingerprint, copy.edition.published.to_json())
        keep()
        self._send(held)
        self.copy = self._open = None
        self.rows += copy.progress.rows
        self._hub.tally.sent_rows.inc(copy.progress.rows)
        self.sent, self._place = copy.watermark, copy.record.stream_from
        self._begun = self._begun or copy.watermark
        self._has = copy.edition.published
        seconds = time.monotonic() - copy.progress.started
        log.info(kv("copy done", session=self.number, rows=copy.progress.rows, seconds=seconds))

    def _follow(self, edition: Edition) -> None:
        """Send what happens after the place, until stopped or until there is another edition.

        Raises Evicted, ResumeLost and PeerGone.
        """
        epochs = self._hub.store.epochs()
        if epochs and epochs[-1] != edition.fingerprint:
            # Another daemon has published another one, and may have sent it to this client. This one follows soon.
            self._stop.wait(0.1)
            return self._listen()
        doubts = self._hub.history.doubts
        persist("session", lambda: self._hub.history.check_copy(self._place, self._begun), self._stop)
        if self._has.fingerprint != edition.fingerprint:
            self._cross(edition)
        changes = self._hub.changes(self._place, edition, self._stop, self._given_up, self.kill)
        self.state = "streaming"
        try:
            while self._open is not None or not (
                self._stop.is_set() or self._hub.edition is not edition or self._hub.history.doubts != doubts
            ):
                self._listen()
                entries = changes.take(JOIN_ROWS, JOIN_BYTES, IDLE)
                if entries:
                    self._send(b"".join(self._transaction(entries)))
                    self._hub.tally.sent(entries, self.since)
                elif self._stop.is_set():
                    break  # the rest of an open transaction does not come any more
        finally:
            changes.close()

    def _transaction(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """Join them into one Zero transaction with the last one's watermark; a large one may stay open at the end."""
        shard = self.wanted.shard_name
        end = entries[-1]
        if self._open is None:
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
        self._open = None if end.last else end.watermark
        if end.last:
            self._place = self.sent = end.watermark  # a commit that cannot be sent ends the session
            yield protocol.commit(end.watermark, end.commit_ms)

    def _send(self, frames: bytes) -> None:
        assert self._peer is not None
        self._peer.send(frames)
        self.bytes += len(frames)
        self._hub.tally.sent_bytes.inc(len(frames))

    def _roll_back(self) -> None:
        self.copy = None
        if self._open is not None:
            self._open = None
            self._send(protocol.ROLLBACK)

    def _reset(self, reason: str) -> None:
        """The position is lost: the client must copy afresh, and is told so."""
        self.state = "reset"
        self._hub.tally.resets.inc()
        log.error(kv("position lost, reset required", session=self.number, sent=self.sent, reason=reason))
        self._roll_back()
        self._send(protocol.reset_required(reason))
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
            self.acked = _acknowledged(message)
            self.acked_at = time.time()
        self._write_ack(now=False)

    def _write_ack(self, now: bool) -> None:
        if self.acked == self._ack_written or not (now or time.monotonic() - self._ack_time >= ACK_INTERVAL):
            return
        assert self.acked is not None
        self._ack_written, self._ack_time = self.acked, time.monotonic()
        try:
            self._hub.store.acked(self.wanted.app, self.wanted.shard, self.acked)
        except StoreError as error:
            self._store_trouble.failed(error)  # nothing is lost: the client says itself where it is
        else:
            self._store_trouble.recovered()


def _acknowledged(message: str | bytes) -> str:
    """The watermark in ``["status", …, {"watermark": W}]``. Raises PeerProtocolError."""
    try:
        tag, _, place = json.loads(message)
        if tag != "status":
            raise ValueError(tag)
        mark: str = place["watermark"]
        position.parse(mark)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PeerProtocolError(f"expected a status message, got {message[:100]!r}") from error
    return mark
