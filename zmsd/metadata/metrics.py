"""The metrics that ``/metrics`` reads from the parts of the daemon at each request.

replication/counters.py has the metrics that are counted where the event happens. ``docs/metrics.rst`` lists all of
them; tests/unit/project/test_metrics_docs.py compares the two.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable

import pymongo

from zmsd import __version__
from zmsd.gateway.session import Session
from zmsd.metadata.monitor import Monitor, memory_bytes
from zmsd.prometheus import Labels, Reading, Registry
from zmsd.replication.problems import KINDS
from zmsd.schema.refresh import Refresh

_STATES = ("waiting", "copying", "streaming", "reset")


def register(registry: Registry, monitor: Monitor, refresh: Refresh) -> None:
    """Add the metrics to a registry. Reading them waits neither for MongoDB nor for the store."""

    def counter(name: str, help: str, read: Callable[[], Reading], *labels: str) -> None:
        registry.callback("counter", name, help, read, labels)

    def gauge(name: str, help: str, read: Callable[[], Reading], *labels: str) -> None:
        registry.callback("gauge", name, help, read, labels)

    _add_feed(counter, gauge, monitor)
    _add_clients(counter, gauge, monitor)
    _add_process(counter, gauge, monitor)
    gauge(
        "zmsd_document_stale",
        "1 while zmsd publishes an older document than the one at its URL, or the URL gives none",
        refresh.stale,
        "document",
    )


_Add = Callable[..., None]


def _add_feed(counter: _Add, gauge: _Add, monitor: Monitor) -> None:
    hub, dispatcher = monitor.hub, monitor.dispatcher

    def fill() -> Reading:
        return {(name,): held / limit for name, (held, limit) in dispatcher.queues.items()}

    def problems() -> Reading:
        counts = Counter(problem.kind for problem in hub.problems.current)
        return {(kind,): counts[kind] for kind in KINDS}

    gauge(
        "zmsd_published_missing",
        "Published names with a problem in the database, by kind",
        problems,
        "what",
    )
    gauge("zmsd_ready", "1 while changes arrive, as on /readyz", lambda: monitor.reason is None)
    gauge(
        "zmsd_progress_age_seconds",
        "Seconds since the feed last made progress; in an idle database it does so every second",
        lambda: monitor.progress.age,
    )
    gauge(
        "zmsd_majority_stalled_seconds",
        "Seconds for which MongoDB's majority commit point has not moved while its primary has written; 0 if it moves",
        lambda: monitor.progress.majority.stalled_seconds,
    )
    gauge(
        "zmsd_position_age_seconds",
        "Seconds since the cluster time up to which everything has been read",
        lambda: monitor.position_age,
    )
    gauge(
        "zmsd_oplog_headroom_seconds",
        "Seconds from the oplog's first entry to that cluster time; missing if zmsd may not read the oplog",
        lambda: monitor.oplog_headroom,
    )
    counter(
        "zmsd_reconnects_total",
        "Reads from MongoDB that failed and were retried",
        hub.source.failures.value,
    )
    gauge("zmsd_queue_fill_ratio", "Fill level of a reader's queue, from 0 to 1", fill, "reader")
    gauge("zmsd_log_bytes", "Bytes in the change log", lambda: hub.log.size)
    counter(
        "zmsd_rejected_rows_total",
        "Rows that were not sent, and values that were sent as null",
        hub.rejects.counts,
        "table",
        "reason",
    )


def _add_clients(counter: _Add, gauge: _Add, monitor: Monitor) -> None:
    def states() -> Reading:
        counts = Counter(session.state for session in monitor.sessions())
        return {(state,): counts[state] for state in sorted({*_STATES, *counts})}

    def seconds(session: Session) -> float | None:
        backlog = monitor.backlog(session)
        return None if backlog is None else backlog.seconds

    def transactions(session: Session) -> float | None:
        backlog = monitor.backlog(session)
        return None if backlog is None else backlog.transactions

    def documents(session: Session) -> float | None:
        copy = session.copy
        return None if copy is None else copy.progress.documents

    def expected(session: Session) -> float | None:
        copy = session.copy
        return None if copy is None else copy.progress.estimated

    def by_shard(name: str, help: str, read: Callable[[Session], float | None]) -> None:
        """Add a gauge with the highest value of each shard: an old connection of a zero-cache may still be open."""

        def reading() -> Reading:
            worst: dict[Labels, float] = {}
            for session in monitor.sessions():
                key, value = (session.subscription.app, str(session.subscription.shard)), read(session)
                if value is not None:
                    worst[key] = max(value, worst.get(key, value))
            return worst

        gauge(name, help, reading, "app", "shard")

    def replicas() -> Reading:
        return dict(Counter((replica.app, str(replica.shard)) for replica in monitor.hub.replicas.counts()))

    gauge(
        "zmsd_replicas",
        "Replicas that stream, of each shard; more than one while a deployment replaces a replication-manager",
        replicas,
        "app",
        "shard",
    )
    gauge("zmsd_sessions", "Connected clients, by state", states, "state")
    by_shard(
        "zmsd_session_acked_age_seconds",
        "Seconds since the newest commit that the client acknowledged",
        monitor.acked_age,
    )
    by_shard(
        "zmsd_session_backlog_seconds",
        "Age in seconds of the oldest change not sent to the client",
        seconds,
    )
    by_shard(
        "zmsd_session_backlog_transactions",
        "Transactions that have not been sent to the client; missing while it is older than the change log",
        transactions,
    )
    by_shard("zmsd_copy_documents", "Documents read so far by a running initial sync or schema change", documents)
    by_shard("zmsd_copy_documents_expected", "Estimated number of documents that it has to read", expected)


def _add_process(counter: _Add, gauge: _Add, monitor: Monitor) -> None:
    def reloads() -> Reading:
        return {(result,): count for result, count in monitor.reloads.items()}

    versions = (__version__, platform.python_version(), pymongo.version)
    gauge(
        "zmsd_store_ready",
        "1 while the watermark store can be written; zmsd serves clients also without it",
        lambda: monitor.hub.store.trouble is None,
    )
    gauge(
        "zmsd_tls_certificate_expiry_timestamp_seconds",
        "When the server's TLS certificate ends, since the epoch; missing without server.tls",
        lambda: monitor.certificate_end,
    )
    counter("zmsd_reloads_total", "Reloads of the configuration, by result", reloads, "result")
    gauge(
        "zmsd_build_info",
        "1; the labels are the versions",
        lambda: {versions: 1},
        "version",
        "python",
        "pymongo",
    )
    gauge("process_resident_memory_bytes", "Resident memory in bytes", memory_bytes)
    gauge("process_start_time_seconds", "Start time of the process in seconds since the epoch", lambda: monitor.started)
