"""What one client has acknowledged."""

from __future__ import annotations

import logging
import time

from zmsd.errors import PeerProtocolError, StoreError
from zmsd.replication.replicas import ReplicaBook
from zmsd.retry import RetryLog
from zmsd.zero import protocol

log = logging.getLogger(__name__)

ACK_INTERVAL = 1.0
"""Seconds between writes of a client's newest acknowledgement to the store."""


class Acks:
    """Session's thread only; ``newest`` may be read by any."""

    def __init__(self, book: ReplicaBook, *, streaming: bool) -> None:
        """:param streaming: whether the connection began with a watermark. zero-cache ends the connection of its
        initial sync after the commit, so an acknowledgement on such a connection does not make a replica lasting.
        """
        self.newest: str | None = None
        """The highest watermark: zero-cache 1.10 repeats an older one after a reconnect."""
        self._book = book
        self._streaming = streaming
        self._written: str | None = None
        self._time = 0.0  # monotonic seconds of the last write
        self._trouble = RetryLog(log, "keeping an acknowledgement")

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

    def write(self, *, now: bool) -> None:
        """Record the newest one, unless that was done less than ACK_INTERVAL ago. Logs a failure of the store."""
        if not self._streaming or self.newest is None or self.newest == self._written:
            return
        if not (now or time.monotonic() - self._time >= ACK_INTERVAL):
            return
        self._time = time.monotonic()
        try:
            self._book.acked(self.newest)
        except StoreError as error:  # nothing is lost: the client says itself where it is
            self._trouble.failed(error)
        else:
            self._written = self.newest
            self._trouble.recovered()
