"""Counts of what the live feed and the sessions have done since the start, for metrics and the status page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from zmsd.mongodb.sequencer import TransactionPart
from zmsd.prometheus import Registry
from zmsd.replication.change_log import Entry
from zmsd.replication.entries import commit_ms

_LAG_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Counters:
    """Counters of one process.

    Only the dispatcher's thread (``read``, ``made``, and its encoder) writes the plain numbers, except ``refused``, and
    any thread may read them, so the hot path needs no lock. What several threads count are metrics.
    """

    def __init__(self, registry: Registry) -> None:
        self.events: Counter[str] = Counter()
        """Collection -> change events."""
        self.rows: Counter[str] = Counter()
        """Table -> row changes."""
        self.refused: Counter[str] = Counter()
        """Kind of refusal -> requests. Written by the listener's thread only."""
        self.transactions = 0
        self.lags: dict[str, float] = {}
        """Collection -> seconds from the commit of its newest event until the event was ready to send."""
        self._worst: float | None = None
        self._sent_lags: dict[int, float] = {}  # each session writes its own key
        registry.callback(
            "counter",
            "zmsd_events_total",
            "Change events that the live feed has read",
            lambda: {(name,): count for name, count in self.events.copy().items()},
            ["collection"],
        )
        registry.callback(
            "counter",
            "zmsd_rows_total",
            "Row changes that the live feed has made of them, each counted once for all clients",
            lambda: {(name,): count for name, count in self.rows.copy().items()},
            ["table"],
        )
        registry.callback(
            "counter",
            "zmsd_refused_requests_total",
            "Requests refused, by the reason that the log gives as kind",
            lambda: {(kind,): count for kind, count in self.refused.copy().items()},
            ["kind"],
        )
        registry.callback(
            "counter",
            "zmsd_transactions_total",
            "Transactions of MongoDB (also single writes) that change a published table",
            lambda: self.transactions,
        )
        self.lag = registry.histogram(
            "zmsd_lag_seconds",
            "Seconds from the commit in MongoDB to the sending of the oldest transaction in each send;"
            " changes from before the connection do not count",
            _LAG_BUCKETS_SECONDS,
        )
        self.sent_rows = registry.counter(
            "zmsd_sent_rows_total",
            "Rows sent to all clients; those of an initial sync when it is complete",
        )
        self.sent_bytes = registry.counter("zmsd_sent_bytes_total", "Bytes sent to all clients")
        self.resets = registry.counter("zmsd_resets_total", "Clients that were sent reset-required")

    def read(self, parts: Sequence[TransactionPart]) -> None:
        """Count a batch of the live feed. Dispatcher thread only."""
        now = time.time()
        # A rename counts for the new name: $out renames from a new temporary name each time. dropDatabase has none.
        # (https://www.mongodb.com/docs/manual/reference/operator/aggregation/out/)
        of_events = ((event, part) for part in parts for event in part.events)
        named = [(event.target or event.collection or "", part) for event, part in of_events]
        self.events.update([name for name, _ in named])
        for name, part in dict(named).items():
            self.lags[name] = max(now - commit_ms(part) / 1000, 0.0)

    def made(self, entries: Sequence[Entry]) -> None:
        """Count entries that are ready to send. Dispatcher thread only."""
        self.transactions += sum(entry.ends_transaction for entry in entries)
        self._worst = max(time.time() - entries[0].commit_ms / 1000, self._worst or 0.0)

    def sent(self, entries: Sequence[Entry], since: float, session: int) -> None:
        """Count entries that were sent to a client. Thread-safe.

        :param since: when the client connected, in seconds since the epoch; older changes waited for the client, so
            they do not count as lag
        :param session: number of the session that sent them
        """
        self.sent_rows.inc(sum(entry.rows for entry in entries))
        first = next((entry for entry in entries if entry.rows or entry.shard_frames), None)
        if first is not None and first.commit_ms / 1000 >= since:
            lag = max(time.time() - first.commit_ms / 1000, 0.0)
            self.lag.observe(lag)
            worst = self._sent_lags
            worst[session] = max(lag, worst.get(session, 0.0))

    def worst_sent_lags(self) -> dict[int, float]:
        """Return session number -> the longest lag of a send since the last call, in seconds."""
        # A send between the read and the reset may be lost; it only lowers one point of a graph.
        worst, self._sent_lags = self._sent_lags, {}
        return worst

    def worst_lag(self) -> float | None:
        """Return the longest lag of a batch since the last call, in seconds; None if there was no batch."""
        # A batch between the read and the reset is lost; it only lowers one point of a graph.
        worst, self._worst = self._worst, None
        return worst
