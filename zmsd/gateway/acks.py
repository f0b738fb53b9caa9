"""Acks: track which commits one client has acknowledged."""

from __future__ import annotations

import logging

from zmsd.errors import PeerProtocolError
from zmsd.replication.replicas import ReplicaBook
from zmsd.replication.throttled_write import ThrottledWrite
from zmsd.replication.unacknowledged import Unacknowledged
from zmsd.zero import protocol

log = logging.getLogger(__name__)


class Acks:
    """The acks of one connection. Session's thread only; any thread may read ``newest``."""

    def __init__(self, book: ReplicaBook, *, streaming: bool) -> None:
        """:param streaming: whether the connection began with a watermark. zero-cache ends the connection of its
        initial sync after the commit, so an ack on such a connection does not prove that the replica is used.
        """
        self.newest: str | None = None
        """The highest acknowledged watermark: zero-cache 1.10 repeats an older one after a reconnect."""
        self.commits = Unacknowledged()
        """The commits that were sent and not acknowledged; the session's joiner has the same object."""
        self._streaming = streaming
        # The client itself sends where it continues, so a failed write loses nothing.
        self._write = ThrottledWrite(book.acked, log, "keeping an acknowledgement")

    def take(self, message: str | bytes, sent: str | None) -> None:
        """Read one message. Raises PeerProtocolError.

        :param sent: watermark of the newest commit that the client can have
        """
        try:
            mark = protocol.acknowledged(message)
        except ValueError as error:
            raise PeerProtocolError(str(error)) from error
        if sent is None or mark > sent:
            raise PeerProtocolError(f"acknowledged {mark[:40]}, above {sent or 'nothing'}, which was sent last")
        if self.newest is None or mark > self.newest:
            self.newest = mark
            self.commits.acknowledged(mark)
            if self._streaming:
                self._write.put(mark)

    def write(self, *, now: bool) -> None:
        """Record the newest ack in the store, at most once a second or ``now``. Failures are logged."""
        self._write.flush(now=now)
