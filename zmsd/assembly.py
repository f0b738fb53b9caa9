"""Construct the parts of the daemon in the order of their dependencies.

Every part gets all that it needs from its constructor. Nothing is started here: daemon.py does that. Opening the store
and binding the port are part of construction, so an error in them ends the process before it serves.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple

from zmsd.config.settings import Config, ServerConfig
from zmsd.errors import ZmsdError, reason_of_bind
from zmsd.gateway import tls
from zmsd.gateway.http import Limits
from zmsd.gateway.registry import SessionRegistry
from zmsd.gateway.server import PageMaker, Server
from zmsd.metadata.metrics import register
from zmsd.metadata.monitor import Monitor
from zmsd.metadata.pages import pages
from zmsd.mongodb.feed import Feed, open_feed
from zmsd.mongodb.source import Source
from zmsd.prometheus import Registry
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.change_log import ChangeLog
from zmsd.replication.counters import Counters
from zmsd.replication.dispatcher import Dispatcher
from zmsd.replication.hub import Hub, Readiness
from zmsd.replication.lineage import Lineage
from zmsd.replication.preparation import prepare
from zmsd.replication.publication_history import PublicationHistory
from zmsd.rows.rejects import Rejects
from zmsd.schema.loading import LoadedDocuments
from zmsd.schema.publication import Publication
from zmsd.schema.refresh import Refresh
from zmsd.watermarks import open_store


class Requests(NamedTuple):
    """What the parts ask of the main thread. Each function only enqueues, and may be called from any thread."""

    reload: Callable[[], None]
    """Read settings and documents again: a document behind a URL has changed."""
    sync_publications: Callable[[], None]
    """Compare the publications in the store with the running one: they may have changed, or MongoDB is prepared."""
    report_thread_death: Callable[[str], None]
    """End the process: the thread of this name has ended by itself."""


@dataclass(frozen=True)
class Services:
    """The parts that the main thread starts, asks and stops."""

    activate: Callable[[Publication], ActivePublication]
    """Makes what it takes to read and encode a publication. Thread-safe."""
    publications: PublicationHistory
    mongodb_prepared: Event
    """Set once MongoDB has been prepared for the first time."""
    hub: Hub
    dispatcher: Dispatcher
    refresh: Refresh
    sessions: SessionRegistry
    monitor: Monitor
    server: Server

    def publish_current(self) -> None:
        """Have the dispatcher publish the current one of ``publications``. Main thread only."""
        current, running = self.publications.current, self.hub.active
        same = current.fingerprint == running.fingerprint
        self.dispatcher.publish(running if same else self.activate(current))


def assemble(settings: Config, documents: LoadedDocuments, requests: Requests) -> Services:
    """Return the parts of a daemon, constructed and not started.

    :raises StoreError: the store cannot be opened, or holds a publication that this version cannot read
    :raises ZmsdError: the port cannot be bound, or the certificate cannot be loaded
    """
    stop = Event()
    rejects = Rejects()
    metrics = Registry()
    source = Source(settings.mongodb.uri, settings.mongodb.database)
    store = open_store(settings, serves=True)
    publications = PublicationHistory(store, publication_of(settings, documents))
    sessions = SessionRegistry(limits_of(settings.server))

    def shard_names() -> set[str]:
        """Return the names of the shards in the store and of those whose first initial sync is running."""
        names = {replica.shard_name for replica in store.replicas()}
        return names.union(session.subscription.shard_name for session in sessions.sessions())

    def activate(publication: Publication) -> ActivePublication:
        return ActivePublication(publication, source, rejects, stop, shard_names)

    hub = Hub(
        source=source,
        active=activate(publications.current),
        store=store,
        lineage=Lineage(source, store),
        log=ChangeLog(),
        readiness=Readiness(),
        rejects=rejects,
        counters=Counters(metrics),
        catch_up_feeds=settings.feed.catch_up,
        initial_sync_rows=settings.feed.initial_sync_rows_per_second,
        join_delay=settings.feed.join_delay,
        lag_report=settings.feed.lag_report,
        heartbeat=settings.feed.heartbeat,
        stop=stop,
    )
    mongodb_prepared = Event()

    def prepare_feed(active: ActivePublication) -> int:
        position = prepare(source, store, hub.lineage, active, settings.feed.images)
        mongodb_prepared.set()
        requests.sync_publications()  # MongoDB takes the publication, so this daemon may offer it to the others
        return position

    def open_live_feed(active: ActivePublication, after: int) -> Feed:
        return open_feed(settings.feed.scope, source, active.watched, after, stop, hub.catch_up.any_open)

    died = requests.report_thread_death
    dispatcher = Dispatcher(hub, prepare_feed, open_live_feed, settings.feed.heartbeat, died)
    refresh = Refresh(requests.reload, documents.documents)
    monitor = Monitor(hub, dispatcher, sessions.sessions)
    register(metrics, monitor, refresh)
    server = _bind(settings.server, hub, sessions, pages(monitor, metrics, refresh), died)
    return Services(activate, publications, mongodb_prepared, hub, dispatcher, refresh, sessions, monitor, server)


def publication_of(settings: Config, documents: LoadedDocuments) -> Publication:
    """Return the publication that settings and documents describe together."""
    zero = settings.zero
    return Publication(documents.catalog, documents.permissions, zero.clients_collection, zero.mutations_collection)


def limits_of(settings: ServerConfig) -> Limits:
    """Return the settings of the server that a reload applies."""
    return Limits(settings.token, settings.max_sessions, settings.max_sessions_per_address, settings.host)


def tls_context(settings: ServerConfig) -> ssl.SSLContext | None:
    """Load the certificate and its key; None where the settings name none.

    :raises ZmsdError: they cannot be loaded
    """
    return None if settings.tls is None else tls.context(settings.tls.cert, settings.tls.key)


def _bind(
    settings: ServerConfig,
    hub: Hub,
    sessions: SessionRegistry,
    pages: Mapping[str, PageMaker],
    report_thread_death: Callable[[str], None],
) -> Server:
    """Return a server whose port is bound. Raises ZmsdError."""
    context = tls_context(settings)
    try:
        return Server((settings.host, settings.port), hub, sessions, pages, context, report_thread_death)
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        raise ZmsdError(f"cannot listen on {address}: {reason_of_bind(error)} (server.host, server.port)") from error
