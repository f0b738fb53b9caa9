"""The main thread: a mailbox of signals and deaths, the order of start and stop, the watchdog."""

from __future__ import annotations

import errno
import faulthandler
import gc
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from zmsd import __version__, systemd
from zmsd import log as logs
from zmsd.config import settings as config
from zmsd.config.partial import credentials_in_use
from zmsd.config.settings import Config
from zmsd.deadline import Deadline
from zmsd.errors import SourceUnavailable, StoreError, ZmsdError, reason_of
from zmsd.gateway import tls
from zmsd.gateway.http import Limits
from zmsd.gateway.registry import SessionRegistry
from zmsd.gateway.server import Server
from zmsd.log import kv
from zmsd.metadata.metrics import register
from zmsd.metadata.monitor import Monitor
from zmsd.metadata.pages import pages
from zmsd.mongodb.feed import Feed, open_feed
from zmsd.mongodb.source import Source
from zmsd.prometheus import Registry
from zmsd.reload_result import ReloadRecorder
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.change_log import ChangeLog
from zmsd.replication.counters import Counters
from zmsd.replication.dispatcher import Dispatcher
from zmsd.replication.hub import Hub, Readiness
from zmsd.replication.lineage import Lineage
from zmsd.replication.preparation import prepare
from zmsd.replication.publication_history import PublicationHistory
from zmsd.retry import REFUSED_WAIT_SECONDS
from zmsd.rows.rejects import Rejects
from zmsd.schema.loading import LoadedDocuments, load_documents
from zmsd.schema.publication import Publication
from zmsd.schema.refresh import Refresh
from zmsd.watermarks import open_store

log = logging.getLogger(__name__)

_FIXED = ("mongodb", "feed", "watermarks", "nats")
"""Sections that a reload does not change in a running daemon."""
STOP_SECONDS = 25.0
"""The Deadline of a stop; systemd's is 30 s (TimeoutStopSec of the unit)."""


class Daemon:
    """One zmsd. ``run`` is for the main thread, ``tell`` for any."""

    def __init__(self, settings: Config, loaded: LoadedDocuments, path: Path | None, env: Mapping[str, str]) -> None:
        self._config = settings
        """As it was started. What a reload changes is not kept here but handed on."""
        self._loaded_documents = loaded
        self._path = path
        self._environ = env
        self._results = ReloadRecorder(settings.watermarks.path.parent)
        self._mailbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._exit: int | None = None
        self._reload_at: float | None = None  # monotonic seconds: a reload waits for MongoDB
        self._reloading = self._reload_again = False
        self._halt = Event()
        self._refresh = Refresh(lambda: self.tell(self.reload))
        self._manager = systemd.Conversation()
        self._rejects = Rejects()
        self._registry = Registry()
        self._source = Source(settings.mongodb.uri, settings.mongodb.database)
        self._store = open_store(settings, serves=True)
        self._publications = PublicationHistory(self._store, _publication_of(settings, loaded))
        self._prepared = Event()
        self._sessions = SessionRegistry(_limits(settings))
        self.hub = self._make_hub()
        self._dispatcher = self._make_dispatcher()
        self._store.on_epoch_change(lambda: self.tell(self._settle))
        self._monitor = Monitor(self.hub, self._dispatcher, self._sessions.sessions)
        register(self._registry, self._monitor, self._refresh)
        self.server = self._make_server()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.server.server_address

    def run(self) -> int:
        """Serve until told to stop; the exit code. Does not install signal handlers (``handle_signals`` does)."""
        log.info(kv("zmsd starts", version=__version__, database=self._config.mongodb.database))
        for warning in self._loaded_documents.catalog.warnings:
            log.warning(kv("catalog", warning=warning))
        self._results.clear()
        self.server.start()
        self._dispatcher.thread.start()
        self._refresh.watch(self._loaded_documents.documents)
        self._refresh.start()
        self._monitor.watch_certificate(self._config.server.tls)
        self._monitor.start()
        log.info(kv("listening", address="{}:{}".format(*self.address)))
        while self._exit is None:
            self._tick()
            ready = self.hub.readiness.reason is None
            if self._reload_at is not None and ready and time.monotonic() >= self._reload_at:
                self.reload()
            try:
                self._mailbox.get(timeout=self._manager.pause)()
            except Empty:
                continue
        self._stop()
        return self._exit

    def tell(self, what: Callable[[], None]) -> None:
        """Have the main thread call something."""
        self._mailbox.put(what)

    def stop(self, code: int = 0) -> None:
        self.tell(lambda: self._end(code))

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT stop, a second one kills; SIGHUP reloads, SIGUSR1 has the state of all threads logged.

        The handlers only enqueue.
        """
        faulthandler.enable()  # the watchdog kills with SIGABRT: the stacks then stand in the journal
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGHUP, lambda *_: self.tell(self.reload))
        signal.signal(signal.SIGUSR1, lambda *_: self.tell(self.dump))

    def reload(self) -> None:
        """Begin to read settings and documents again; an error in them changes nothing. Main thread only.

        A thread of its own reads and checks them and asks MongoDB, so that the watchdog is fed meanwhile. A reload
        that is asked for while one is under way follows it.
        """
        self._reload_at = None
        if self._reloading:
            self._reload_again = True
            return
        self._reloading = True
        self._results.begin()
        self._manager.reloading()
        Thread(target=self._load, name="reload", daemon=True).start()

    def _load(self) -> None:
        """Read everything, and have the main thread apply it. Reload thread only."""
        outcome: Callable[[], None]
        try:
            new = config.load(self._path, self._environ)
            context = _tls(new.server)
            loaded = load_documents(new, fall_back=False)
            active = self._make_active(_publication_of(new, loaded))
            if active.fingerprint != self.hub.active.fingerprint:
                prepare(self._source, self._store, self.hub.lineage, active, self._config.feed.images)
        except SourceUnavailable as error:
            reason = f"MongoDB cannot be asked whether it takes what is new, this is tried again: {error}"
            outcome = partial(self._refuse, reason, retry=True)
        except ZmsdError as error:
            outcome = partial(self._refuse, str(error))
        except Exception as error:  # a bug must not end the reloading
            log.exception("reload failed")
            outcome = partial(self._refuse, f"failed: {error!r}")
        else:
            outcome = partial(self._apply, new, context, loaded, active)
        self.tell(partial(self._loaded, outcome))

    def _loaded(self, outcome: Callable[[], None]) -> None:
        """Finish a reload whose thread has ended. Main thread only."""
        self._reloading = False
        outcome()
        self._manager.reloaded(self._monitor.words())
        if self._reload_again:
            self._reload_again = False
            self.reload()

    def _refuse(self, reason: str, *, retry: bool = False) -> None:
        """:param retry: whether to try again by itself, once MongoDB can be reached"""
        if retry:
            self._reload_at = time.monotonic() + REFUSED_WAIT_SECONDS
        faults = reason.splitlines()
        self._monitor.reloaded(faults)
        for line in faults:
            log.error(kv("reload refused", fault=line))
        self._results.end(faults=faults)

    def _apply(
        self, new: Config, context: ssl.SSLContext | None, loaded: LoadedDocuments, active: ActivePublication
    ) -> None:
        try:
            self._publications.reload(active.publication)
        except ZmsdError as error:
            self._refuse(str(error))
            return
        logs.setup(new.log.level, new.log.format)
        self.server.apply(_limits(new), context)
        self._monitor.watch_certificate(new.server.tls)
        self._refresh.watch(loaded.documents)
        fixed = [name for name in _FIXED if getattr(new, name) != getattr(self._config, name)]
        if _fixed_server(new) != _fixed_server(self._config):
            fixed.append("server")
        if fixed:
            log.warning(kv("changed settings need a restart", sections=",".join(fixed)))
        self._publish()
        self._monitor.reloaded(restart=fixed)
        log.info(kv("reloaded", tables=len(loaded.catalog.tables)))
        credentials = credentials_in_use(new)
        if credentials:
            log.info(kv("credentials are those of the start, a new one needs a restart", names=",".join(credentials)))
        self._results.end(restart=fixed, credentials=credentials, tables=len(loaded.catalog.tables))

    def dump(self) -> None:
        """What every thread is doing, and how full the queues are, into the log."""
        for name, stack in logs.stacks():
            log.info("stack of thread %s:\n%s", name, stack)
        queues = {name: f"{held}/{limit}" for name, (held, limit) in self._dispatcher.queues.items()}
        log.info(kv("queues", **queues, log_bytes=self.hub.log.size, sessions=len(self._sessions.sessions())))

    def _on_stop_signal(self, number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # the second one kills
        self.stop()

    def _end(self, code: int) -> None:
        self._exit = code if self._exit is None else max(code, self._exit)

    def _on_thread_death(self, thread: str) -> None:
        log.critical(kv("thread died, exiting", thread=thread))
        self.stop(1)

    def _tick(self) -> None:
        """Tell systemd how it is; the watchdog is fed while the feed makes progress, or waits in a retry it knows."""
        serves = self.hub.readiness.reason is None
        self._manager.tick(serves, self._dispatcher.is_alive(), self._monitor.words())

    def _stop(self) -> None:
        systemd.stopping()
        deadline = Deadline(STOP_SECONDS)
        self._refresh.stop()
        self._monitor.stop()
        self._dispatcher.stop()
        self.hub.stop.set()
        self.server.stop(deadline)
        self._dispatcher.thread.join(deadline.remaining())
        self.hub.store.close()
        self.hub.source.close()
        log.info(kv("zmsd stopped"))

    def _settle(self) -> None:
        """Publish what all daemons on this store publish, once MongoDB takes what this one has to offer."""
        try:
            if self._prepared.is_set() and self._publications.settle():
                self._publish()
        except StoreError as error:
            log.critical(kv("cannot go on, exiting", error=error))
            self.stop(1)

    def _publish(self) -> None:
        current, running = self._publications.current, self.hub.active
        same = current.fingerprint == running.fingerprint
        self._dispatcher.publish(running if same else self._make_active(current))

    def _make_active(self, publication: Publication) -> ActivePublication:
        def shards() -> set[str]:
            known = {replica.shard_name for replica in self._store.replicas()}
            return known.union(session.subscription.shard_name for session in self._sessions.sessions())

        return ActivePublication(publication, self._source, self._rejects, self._halt, shards)

    def _make_hub(self) -> Hub:
        settings = self._config
        return Hub(
            source=self._source,
            active=self._make_active(self._publications.current),
            store=self._store,
            lineage=Lineage(self._source, self._store),
            log=ChangeLog(),
            readiness=Readiness(),
            rejects=self._rejects,
            counters=Counters(self._registry),
            catch_up_feeds=settings.feed.catch_up,
            lag_report=settings.feed.lag_report,
            stop=self._halt,
        )

    def _make_dispatcher(self) -> Dispatcher:
        feed, hub = self._config.feed, self.hub

        def open_live(active: ActivePublication, after: int) -> Feed:
            return open_feed(feed.scope, hub.source, active.watched, after, hub.stop)

        def prepared(active: ActivePublication) -> int:
            now = prepare(self._source, self._store, hub.lineage, active, self._config.feed.images)
            self._prepared.set()
            self.tell(self._settle)
            return now

        return Dispatcher(hub, prepared, open_live, feed.heartbeat, self._on_thread_death)

    def _make_server(self) -> Server:
        server = self._config.server
        try:
            return Server(
                (server.host, server.port),
                self.hub,
                self._sessions,
                pages(self._monitor, self._registry),
                _tls(server),
                self._on_thread_death,
            )
        except OSError as error:
            hint = "the port is in use by another process" if error.errno == errno.EADDRINUSE else reason_of(error)
            raise ZmsdError(
                f"cannot listen on {server.host}:{server.port}: {hint} (server.host, server.port)"
            ) from error


def _publication_of(settings: Config, loaded: LoadedDocuments) -> Publication:
    zero = settings.zero
    return Publication(loaded.catalog, loaded.permissions, zero.clients_collection, zero.mutations_collection)


def _fixed_server(settings: Config) -> tuple[object, ...]:
    return settings.server.host, settings.server.port


def _limits(settings: Config) -> Limits:
    server = settings.server
    return Limits(server.token, server.max_sessions, server.max_sessions_per_address, server.host)


def _tls(server: config.ServerConfig) -> ssl.SSLContext | None:
    return None if server.tls is None else tls.context(server.tls.cert, server.tls.key)


def run(path: Path | None) -> int:
    """``zmsd run``. Raises ConfigError and ZmsdError before it serves."""
    environ = dict(os.environ)
    settings = config.load(path, environ)
    daemon = Daemon(settings, load_documents(settings), path, environ)
    daemon.handle_signals()
    # Objects alive now stay alive, and documents have no cycles: frequent collections would only cost processor time.
    gc.freeze()
    gc.set_threshold(100_000)
    # A session that catches up keeps the interpreter busy, and a live change needs it about eight times on its way.
    sys.setswitchinterval(0.0005)
    return daemon.run()
