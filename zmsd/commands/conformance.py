"""``zmsd conformance``: play a strict zero-cache against any change source, and report which rules the source keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy

from zmsd import position
from zmsd.commands.change_source_client import Message, SourceClient
from zmsd.commands.daemon_client import Target
from zmsd.commands.strict_replica import Replica
from zmsd.commands.strict_tables import require
from zmsd.errors import PeerError, PeerGone, Violation
from zmsd.log import write_line

PONG_SECONDS = 10.0
"""Longest wait for the answer to a ping; zero-cache ends a connection without pongs after 58 s."""
ALIVE_SECONDS = 2.0
"""Time for which a connection must stay open after acks that the source may not expect."""
ANCIENT = position.watermark(1)
"""A watermark that no change source has the changes after."""


def conformance(target: Target, app: str, shard: int, seconds: float, patience: float) -> int:
    """Print a line for each check, and return the exit code: 0 if no check fails.

    :param app: appID to connect with
    :param shard: shardNum to connect with
    :param seconds: how long to read the stream; changes must be written meanwhile
    :param patience: longest wait in seconds for a message that must come
    :raises PeerError: the change source does not answer at all
    """
    run = Conformance(lambda **query: target.stream(app, shard, **query), app, shard, seconds, patience)
    results = []
    for result, name, text in run.results():
        write_line(f"{result:4}  {name}: {text}")
        results.append(result)
    write_line(", ".join(f"{results.count(result)} {word}" for result, word in WORDS.items()))
    return 1 if "FAIL" in results else 0


WORDS = {"ok": "passed", "FAIL": "failed", "skip": "skipped"}
"""Result of a check -> its word in the summary."""


class _Skipped(Exception):
    """A check cannot be made; the text says why."""


class Conformance:
    """One replica of a change source, from its initial sync on. For one thread."""

    def __init__(
        self, connect: Callable[..., SourceClient], app: str, shard: int, seconds: float, patience: float
    ) -> None:
        """:param connect: opens a connection with these parameters in its query; raises PeerError"""
        self._connect = connect
        self._app = app
        self._seconds = seconds
        self._patience = patience
        self._replica = Replica(app, shard)
        self._initial = self._replica
        """The replica as of its initial sync."""

    def results(self) -> Iterator[tuple[str, str, str]]:
        """Make each check, and yield its result ("ok", "FAIL" or "skip"), its name, and what was seen.

        Raises PeerError if the change source refuses the first connection.
        """
        checks = (
            ("initial sync", self._initial_sync),
            ("stream", self._stream),
            ("repetition", self._repeat),
            ("acks", self._acknowledge),
            ("lost position", self._lose_position),
            ("new initial sync", self._begin_again),
        )
        for name, check in checks:
            if name != "initial sync" and self._replica.version is None:
                yield "skip", name, "it needs an initial sync"
                continue
            try:
                yield "ok", name, check()
            except _Skipped as reason:
                yield "skip", name, str(reason)
            except PeerError as error:
                if not isinstance(error, PeerGone | Violation) and name == "initial sync":
                    raise
                yield "FAIL", name, str(error)
            self._replica.disconnected()

    def _initial_sync(self) -> str:
        """The tables, their keys, the required tables and rows, and every value, in one transaction."""
        with closing(self._connect()) as client:
            while self._replica.version is None:
                self._take(client, self._replica)
                require(self._replica.reset_required is None, "reset-required in the initial sync")
            client.send(_ack(self._replica.watermark))
        self._initial = deepcopy(self._replica)
        rows = sum(map(len, self._replica.rows.values()))
        return f"{len(self._replica.tables)} tables, {rows} rows, watermark {self._replica.version}"

    def _stream(self) -> str:
        """Order, watermarks, pairs of begin and commit, values, pongs. Nothing is acknowledged meanwhile."""
        end = time.monotonic() + self._seconds
        with closing(self._resume(self._replica)) as client:
            require(client.ping(PONG_SECONDS), f"no pong within {PONG_SECONDS:.0f} s: zero-cache ends the connection")
            while time.monotonic() < end or self._replica.in_transaction:
                self._take(client, self._replica, None if self._replica.in_transaction else end)
                require(self._replica.reset_required is None, f"reset-required: {self._replica.reset_required}")
        seen = self._replica.transactions
        if not any(transaction.changes for transaction in seen):
            raise _Skipped(f"no change within {self._seconds:g} s: write to the database meanwhile")
        changes = sum(len(transaction.changes) for transaction in seen)
        return f"{len(seen)} transactions, {changes} changes, {self._replica.lag_reports} lag reports"

    def _repeat(self) -> str:
        """What was not acknowledged is sent again to a connection that resumes, and gives the same rows.

        zero-cache's replica may have a commit that its change log lacks after a crash, and is refused for ever if the
        commit does not come again (``WatermarkTooOld`` in change-streamer/storer.ts of rocicorp/mono).
        """
        if not self._replica.transactions:
            raise _Skipped("no transaction was seen")
        again = deepcopy(self._initial)
        with closing(self._resume(again)) as client:
            while again.watermark < self._replica.watermark:
                self._take(client, again)
                require(again.reset_required is None, f"reset-required: {again.reset_required}")
        marks = {transaction.watermark for transaction in again.transactions}
        lost = [each.watermark for each in self._replica.transactions if each.watermark not in marks]
        require(
            not lost, f"commits do not come again: {', '.join(lost[:3])}; a replica that has one is refused for ever"
        )
        require(again.watermark == self._replica.watermark, "the newest commit does not come again")
        tables = [name for name in self._replica.rows if again.rows.get(name) != self._replica.rows[name]]
        require(not tables, f"other rows come again in {', '.join(tables[:3])}")
        return f"{len(self._replica.transactions)} commits came again"

    def _acknowledge(self) -> str:
        """One ack for many commits, and an ack below what was sent, as zero-cache 1.10 sends them."""
        with closing(self._resume(self._replica)) as client:
            for watermark in (str(self._replica.version), self._replica.watermark):
                client.send(_ack(watermark))
            end = time.monotonic() + ALIVE_SECONDS
            while time.monotonic() < end:
                self._take(client, self._replica, end)
            require(client.ping(PONG_SECONDS), "no pong after the acks")
        return "coalesced and repeated acks are accepted"

    def _lose_position(self) -> str:
        """A position that cannot be resumed is reported, never skipped."""
        lost = deepcopy(self._initial)
        with closing(self._connect(lastWatermark=ANCIENT, replicaVersion=ANCIENT)) as client:
            lost.watermark = ANCIENT
            while lost.reset_required is None:
                self._take(client, lost)
                require(not lost.transactions, f"changes after {ANCIENT}, a position that no change source can resume")
        return f"reset-required: {lost.reset_required or 'without a message'}"

    def _begin_again(self) -> str:
        """After a reset zero-cache takes no initial sync with the watermark of an earlier one."""
        with closing(self._connect()) as client:
            again = Replica(self._app)
            while not again.in_transaction:
                self._take(client, again)
            require(
                str(again.begun) > str(self._replica.version),
                f"watermark {again.begun} is not above {self._replica.version}, that of the initial sync before",
            )
        return f"watermark {again.begun}"

    def _resume(self, replica: Replica) -> SourceClient:
        return self._connect(lastWatermark=replica.watermark, replicaVersion=str(replica.version))

    def _take(self, client: SourceClient, replica: Replica, end: float | None = None) -> None:
        """Take one message. Raises Violation, and PeerGone if the connection ends.

        :param end: monotonic seconds until which no message need come; None: one must come
        """
        text = client.receive(self._patience if end is None else max(end - time.monotonic(), 0.01))
        if text is not None:
            replica.receive(text)
        elif end is None:
            raise Violation(f"no message for {self._patience:g} s")


def _ack(watermark: str) -> Message:
    """Return an ack as zero-cache 1.10 sends it (change-streamer/upstream-acker.ts in rocicorp/mono)."""
    return ["status", {"tag": "commit"}, {"watermark": watermark}]
