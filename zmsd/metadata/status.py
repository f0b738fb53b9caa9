"""``/status``, the page for people, and ``/status.json``, which that page and ``zmsd status`` read.

The HTML is constant. Its script fetches ``/status.json`` and inserts values as text, never as markup.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from zmsd import __version__, position
from zmsd.gateway.session import Session
from zmsd.metadata.monitor import SAMPLE_INTERVAL_SECONDS, Monitor, memory_bytes
from zmsd.mongodb.source import Source
from zmsd.replication.problems import Problem


def status(monitor: Monitor) -> dict[str, Any]:
    """Return the content of ``/status.json``. Times are seconds since the epoch, and null means unknown.

    Thread-safe. Waits neither for MongoDB nor for the store.
    """
    hub = monitor.hub
    # The position first, so that the log has everything up to it when its head is read.
    source, reached, watermark = hub.source, monitor.dispatcher.position, hub.log.head
    return {
        "version": __version__,
        "now": round(time.time(), 3),
        "started": round(monitor.started, 3),
        "ready": monitor.reason is None,
        "state": monitor.summary(),
        "store_trouble": hub.store.trouble,
        "certificate_end": monitor.certificate_end,
        "problems": [problem._asdict() for problem in hub.problems.current],
        "database": source.db.name,
        "mongodb": source.deployment.version_text or None,
        "watermark": watermark,
        "position": None if reached is None else position.watermark(reached),
        "publication": hub.active.fingerprint,
        "feed_scope": monitor.dispatcher.scope,
        "progress_age": _round(monitor.progress.age),
        "position_age": _round(monitor.position_age),
        "behind_seconds": _round(monitor.behind),
        "oplog_headroom": monitor.oplog_headroom,
        "oplog_note": monitor.oplog_note,
        "memory_bytes": memory_bytes(),
        "log_bytes": hub.log.size,
        "reconnects": int(source.failures.value()),
        "collections": _collections(monitor),
        "sessions": [_session(monitor, session) for session in monitor.sessions()],
        "rejected": _rejected(monitor),
        "last_reload": None if monitor.last_reload is None else monitor.last_reload._asdict(),
        "history": {
            "every": SAMPLE_INTERVAL_SECONDS,
            "when": [round(point.when, 1) for point in monitor.history],
            "rate": [round(point.rate, 1) for point in monitor.history],
            "lag": [round(point.lag, 4) for point in monitor.history],
        },
    }


def _collections(monitor: Monitor) -> list[dict[str, Any]]:
    hub = monitor.hub
    active, counters = hub.active, hub.counters
    tables: dict[str, list[str]] = {name: [] for name in active.watched}
    for table in active.catalog.tables:
        tables[table.mapping.collection].append(table.name)
    for shard_table in active.shard_tables:
        tables[shard_table.collection].append(f"zero-cache's own {shard_table.kind}")
    queues = monitor.dispatcher.queues
    problems = {problem.name: problem for problem in hub.problems.current if problem.kind != "field"}
    return [
        {
            "name": name,
            "tables": tables[name],
            "events": counters.events[name],
            "rate": _round(monitor.rates.get(name, 0.0)),
            "lag": _round(counters.lags.get(name)),
            "queue": queues.get(f"collection-{name}"),
            "images": name in hub.source.images,
            "images_note": _images_note(hub.source, name, problems.get(name)),
        }
        for name in sorted(tables)
    ]


def _images_note(source: Source, name: str, problem: Problem | None) -> str | None:
    """Return why a collection has no pre- and post-images; None if it has them."""
    if name in source.images:
        return None
    if not source.deployment.version:
        return "MongoDB has not been asked yet"
    if not source.deployment.stores_images:
        return source.deployment.why_no_images
    if not source.wants_images:
        return "feed.images is off"
    if problem is not None and problem.kind == "collection":
        return "the collection does not exist"
    if problem is not None and problem.kind == "type":
        return "only collections have them"
    why = source.missing_images.get(name)
    return "they are switched on at the next check" if why is None else str(why)


def _session(monitor: Monitor, session: Session) -> dict[str, Any]:
    copy, backlog = session.copy, monitor.backlog(session)
    return {
        "number": session.number,
        "app": session.subscription.app,
        "shard": session.subscription.shard,
        "replica": session.replica.version or None,
        "address": session.address,
        "since": round(session.since, 3),
        "state": session.state,
        "sent": session.sent,
        "acked": session.acked,
        "acked_age": _round(monitor.acked_age(session)),
        "lags": [_round(lag) for lag in monitor.replica_lags.of(session.replica)],
        "backlog_seconds": None if backlog is None else _round(backlog.seconds),
        "backlog_transactions": None if backlog is None else backlog.transactions,
        "rows": session.rows + (0 if copy is None else copy.progress.rows),
        "bytes": session.bytes,
        "copy": None if copy is None else copy.progress.as_dict(),
    }


def _rejected(monitor: Monitor) -> dict[str, Any]:
    rejects = monitor.hub.rejects
    return {
        "counts": [asdict(total) for total in rejects.totals()],
        "newest": [reject._asdict() for reject in reversed(rejects.newest())],
    }


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
