"""Tally: what the live feed and the sessions have done since the start, counted where it is done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from zmsd.mongodb.sequencer import TransactionPart
from zmsd.prometheus import Registry
from zmsd.replication.change_log import Entry
from zmsd.replication.entries import commit_ms

_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Tally:
    """The plain numbers are written by the dispatcher's thread alone (``read``, ``made``, and its encoder), and read by
    any thread: they cost the hot path no lock. What more than one thread counts are metrics."""

    def __init__(self, registry: Registry) -> None:
        self.events: Counter[str] = Counter()
        """By collection."""
        self.rows: Counter[str] = Counter()
        """By table."""
        self.transactions = 0
        self.lags: dict[str, float] = {}
        """Collection -> seconds from the commit of its newest event until that was ready to be sent."""
        self._worst: float | None = None
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
            "Row changes that the live feed has made of them, each counted once, whoever gets it",
            lambda: {(name,): count for name, count in self.rows.copy().items()},
            ["table"],
        )
        registry.callback(
            "counter",
            "zmsd_transactions_total",
            "Transactions of MongoDB (a single write is one too) that concern a table",
            lambda: self.transactions,
        )
        self.lag = registry.histogram(
            "zmsd_lag_seconds",
            "From the commit in MongoDB to the sending, of the oldest transaction in each send to a client that was"
            " connected by then",
            _LAG,
        )
        self.sent_rows = registry.counter(
            "zmsd_sent_rows_total", "Rows sent, to all clients; those of a copy when it is complete"
        )
        self.sent_bytes = registry.counter("zmsd_sent_bytes_total", "Bytes sent, to all clients")
        self.resets = registry.counter("zmsd_resets_total", "Clients told to copy everything afresh")

    def read(self, parts: Sequence[TransactionPart]) -> None:
        """What the live feed has read at once."""
        now = time.time()
        # Of a rename the new name: that of before may be one of many, as of $out. dropDatabase has none.
        of_events = ((event, part) for part in parts for event in part.events)
        named = [(event.target or event.collection or "", part) for event, part in of_events]
        self.events.update([name for name, _ in named])
        for name, part in dict(named).items():
            self.lags[name] = max(now - commit_ms(part) / 1000, 0.0)

    def made(self, entries: Sequence[Entry]) -> None:
        """What came of it, and is ready to be sent."""
        self.transactions += sum(entry.last for entry in entries)
        self._worst = max(time.time() - entries[0].commit_ms / 1000, self._worst or 0.0)

    def sent(self, entries: Sequence[Entry], since: float) -> None:
        """Sent to a client; any thread.

        :param since: when it connected, in seconds since the epoch: what is older waited for the client, not for us
        """
        self.sent_rows.inc(sum(entry.rows for entry in entries))
        first = next((entry for entry in entries if entry.rows or entry.shard_frames), None)
        if first is not None and first.commit_ms / 1000 >= since:
            self.lag.observe(max(time.time() - first.commit_ms / 1000, 0.0))

    def worst_lag(self) -> float | None:
        """The longest lag of a batch since the last call, in seconds; None if there was none."""
        # A batch that comes between these two is not seen: one point of a graph is lower for it.
        worst, self._worst = self._worst, None
        return worst
