"""What ``/metrics`` reads from the parts of the daemon; what they count themselves is in stream/tally.py.

``docs/metrics.rst`` lists them all, and a test holds it to that.
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
    """Nothing that is read here waits: neither for MongoDB nor for the store."""

    def counter(name: str, help: str, read: Callable[[], Reading], *labels: str) -> None:
        registry.callback("counter", name, help, read, labels)

    def gauge(name: str, help: str, read: Callable[[], Reading], *labels: str) -> None:
        registry.callback("gauge", name, help, read, labels)

    _of_the_feed(counter, gauge, monitor)
    _of_the_clients(counter, gauge, monitor)
    _of_the_process(counter, gauge, monitor)
    gauge(
        "zmsd_document_stale",
        "1 while an older document is published than the one at its URL, or the URL gives none",
        refresh.stale,
        "document",
    )


_Add = Callable[..., None]


def _of_the_feed(counter: _Add, gauge: _Add, monitor: Monitor) -> None:
    hub, dispatcher = monitor.hub, monitor.dispatcher

    def fill() -> Reading:
        return {(name,): held / limit for name, (held, limit) in dispatcher.queues.items()}

    def problems() -> Reading:
        counts = Counter(problem.kind for problem in hub.problems.current)
        return {(kind,): counts[kind] for kind in KINDS}

    gauge(
        "zmsd_published_missing",
        "Published names that are not in the database as they should be, by what is missing",
        problems,
        "what",
    )
    gauge("zmsd_ready", "1 while changes arrive, as /readyz says", lambda: monitor.reason is None)
    gauge(
        "zmsd_progress_age_seconds",
        "Since the feed last made progress; in an idle database it makes some every second",
        lambda: monitor.progress.age,
    )
    gauge(
        "zmsd_majority_stalled_seconds",
        "For which MongoDB's majority commit point has not moved while its primary has written; 0 if it moves",
        lambda: monitor.progress.majority.stands_for,
    )
    gauge(
        "zmsd_position_age_seconds",
        "Since the moment in MongoDB up to which everything has been read",
        lambda: monitor.position_age,
    )
    gauge(
        "zmsd_oplog_headroom_seconds",
        "By which the oplog reaches back behind that moment; missing where zmsd may not look",
        lambda: monitor.oplog_headroom,
    )
    counter(
        "zmsd_reconnects_total",
        "Times that reading from MongoDB failed and was tried again",
        hub.source.failures.value,
    )
    gauge("zmsd_queue_fill_ratio", "How full a reader's queue is, from 0 to 1", fill, "reader")
    gauge("zmsd_log_bytes", "Held in the change log for the clients", lambda: hub.log.size)
    counter(
        "zmsd_rejected_rows_total",
        "Rows and values that could not be sent as they were",
        hub.rejects.counts,
        "table",
        "reason",
    )


def _of_the_clients(counter: _Add, gauge: _Add, monitor: Monitor) -> None:
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
        """The worst of a zero-cache's sessions: it may have an old connection that is not gone yet."""

        def reading() -> Reading:
            worst: dict[Labels, float] = {}
            for session in monitor.sessions():
                key, value = (session.wanted.app, str(session.wanted.shard)), read(session)
                if value is not None:
                    worst[key] = max(value, worst.get(key, value))
            return worst

        gauge(name, help, reading, "app", "shard")

    def replicas() -> Reading:
        return dict(Counter((replica.app, str(replica.shard)) for replica in monitor.hub.streaming()))

    gauge(
        "zmsd_replicas",
        "Replicas that stream, of each shard; more than one while a deployment replaces a replication-manager",
        replicas,
        "app",
        "shard",
    )
    gauge("zmsd_sessions", "Connected clients, by what they are doing", states, "state")
    by_shard(
        "zmsd_session_acked_age_seconds", "Since the newest commit that the client has confirmed", monitor.acked_age
    )
    by_shard("zmsd_session_backlog_seconds", "Age of the oldest change that the client has not been sent yet", seconds)
    by_shard(
        "zmsd_session_backlog_transactions",
        "Transactions that it has not been sent yet; missing while it is older than the change log",
        transactions,
    )
    by_shard("zmsd_copy_documents", "Read so far for a copy that is under way", documents)
    by_shard("zmsd_copy_documents_expected", "In all for it, roughly", expected)


def _of_the_process(counter: _Add, gauge: _Add, monitor: Monitor) -> None:
    def reloads() -> Reading:
        return {(result,): count for result, count in monitor.reloads.items()}

    versions = (__version__, platform.python_version(), pymongo.version)
    gauge(
        "zmsd_store_ready",
        "1 while the watermark store can be written; clients are served in any case",
        lambda: monitor.hub.store.trouble is None,
    )
    gauge(
        "zmsd_tls_certificate_expiry_timestamp_seconds",
        "When the server's TLS certificate ends, since the epoch; missing without server.tls",
        lambda: monitor.certificate_end,
    )
    counter("zmsd_reloads_total", "Reloads of the configuration, by result", reloads, "result")
    gauge("zmsd_build_info", "1; what runs", lambda: {versions: 1}, "version", "python", "pymongo")
    gauge("process_resident_memory_bytes", "Resident memory", memory_bytes)
    gauge("process_start_time_seconds", "When the process started, since the epoch", lambda: monitor.started)
