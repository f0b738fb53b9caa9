"""The main thread: its mailbox, the order of start and stop, and the watchdog.

``assembly.py`` constructs the parts, and ``reloading.py`` reloads them. The main thread never waits for MongoDB, a
client or an endpoint, so it can always feed systemd's watchdog and take a signal.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from zmsd import __version__, systemd
from zmsd import log as logs
from zmsd.assembly import Requests, assemble
from zmsd.config import settings as config
from zmsd.config.restart import write_started_with
from zmsd.config.settings import Config
from zmsd.deadline import Deadline
from zmsd.errors import StoreError
from zmsd.log import kv
from zmsd.reloading import Reloader
from zmsd.replication.hub import Readiness
from zmsd.schema.loading import LoadedDocuments, load_documents

log = logging.getLogger(__name__)

STOP_SECONDS = 25.0
"""Seconds that a stop may take; systemd allows 30 s (TimeoutStopSec of the unit)."""
DISPATCHER_STOP_SECONDS = 5.0
"""Seconds of these for the dispatcher: its request for changes takes one, and those of its readers as long. A request
that MongoDB does not answer is not waited for."""


class Daemon:
    """The process ``zmsd run``. Main thread only, except for ``call_soon``, ``stop``, ``address`` and ``readiness``."""

    def __init__(
        self, settings: Config, documents: LoadedDocuments, path: Path | None, environ: Mapping[str, str]
    ) -> None:
        """Open the store and bind the port; nothing runs before ``run``.

        :param settings: the settings that ``path`` and ``environ`` gave
        :param documents: the documents that ``settings`` name
        :param path: the settings file, for reloads; None for the default file
        :param environ: the environment variables, for reloads
        :raises StoreError: the store cannot be opened
        :raises ZmsdError: the port cannot be bound, or the certificate cannot be loaded
        """
        self._settings = settings
        self._documents = documents
        self._mailbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._exit_code: int | None = None
        self._notifier = systemd.Notifier()
        requests = Requests(
            reload=partial(self.call_soon, self.reload),
            sync_publications=partial(self.call_soon, self._sync_publications),
            report_thread_death=lambda thread: self.call_soon(partial(self._on_thread_death, thread)),
        )
        self._services = assemble(settings, documents, requests)
        self._reloader = Reloader(settings, path, environ, self._services, self._notifier, self.call_soon)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the server is bound to. Thread-safe."""
        return self._services.server.server_address

    @property
    def readiness(self) -> Readiness:
        """Whether the feed runs. Thread-safe."""
        return self._services.hub.readiness

    def run(self) -> int:
        """Serve until ``stop``, and return the exit code. Signal handlers are the caller's (``handle_signals``)."""
        self._start()
        while self._exit_code is None:
            self._notify_systemd()
            self._reloader.retry_if_due()
            try:
                self._mailbox.get(timeout=self._notifier.pause)()
            except Empty:
                continue
        self._stop()
        return self._exit_code

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have the main thread call a function. Thread-safe; a signal handler may call this."""
        self._mailbox.put(function)

    def stop(self, code: int = 0) -> None:
        """End ``run`` with an exit code; of several codes the highest. Thread-safe."""
        self.call_soon(partial(self._set_exit_code, code))

    def handle_signals(self) -> None:
        """Install the signal handlers, which only enqueue.

        SIGTERM and SIGINT stop, a second one kills; SIGHUP reloads; SIGUSR1 logs the stacks of all threads.
        """
        faulthandler.enable()  # systemd's watchdog kills with SIGABRT: the stacks of all threads go to the journal
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGHUP, lambda *_: self.call_soon(self.reload))
        signal.signal(signal.SIGUSR1, lambda *_: self.call_soon(self.dump))

    def reload(self) -> None:
        """Read settings and documents again, and apply them."""
        self._reloader.reload()

    def dump(self) -> None:
        """Log the stack of every thread and the fill of the queues."""
        for name, stack in logs.stacks():
            log.info("stack of thread %s:\n%s", name, stack)
        services = self._services
        queues = {name: f"{held}/{limit}" for name, (held, limit) in services.dispatcher.queues.items()}
        sessions = len(services.sessions.sessions())
        log.info(kv("queues", **queues, log_bytes=services.hub.log.size, sessions=sessions))

    def _start(self) -> None:
        """Start the parts. ``docs/architecture.rst`` has the start from the command line on."""
        log.info(kv("zmsd starts", version=__version__, database=self._settings.mongodb.database))
        for warning in self._documents.catalog.warnings:
            log.warning(kv("catalog", warning=warning))
        services = self._services
        # 1. Remove the result of an earlier process's reload, before a signal can start one of this process.
        self._reloader.results.clear()
        with suppress(OSError):  # only ``zmsd plan`` needs it
            write_started_with(self._settings.watermarks.path.parent, self._settings)
        # 2. Accept connections first: health checks are answered while MongoDB is away, and clients may wait.
        services.server.start()
        # 3. Watch the store before the dispatcher prepares MongoDB, after which publications are compared.
        services.hub.store.on_epoch_change(partial(self.call_soon, self._sync_publications))
        # 4. Read MongoDB. The dispatcher retries by itself, for as long as MongoDB is away.
        services.dispatcher.thread.start()
        # 5. Look for changed documents: those that the dispatcher's publication was made of.
        services.refresh.start()
        # 6. Sample the parts last, when all of them run.
        services.monitor.watch_certificate(self._settings.server.tls)
        services.monitor.start()
        log.info(kv("listening", address="{}:{}".format(*self.address)))

    def _stop(self) -> None:
        """Stop the parts under one deadline of STOP_SECONDS. Nothing depends on it: ``kill -9`` loses no change."""
        services = self._services
        deadline = Deadline(STOP_SECONDS)
        # 1. Tell systemd first: whatever takes long below, ``systemctl status`` shows that the daemon is stopping.
        systemd.stopping()
        # 2. Ask the threads to end that nothing else waits for, so that they end during the next steps.
        services.refresh.stop()
        services.monitor.stop()
        services.dispatcher.stop()
        # 3. End waits for MongoDB, in the dispatcher and in sessions: a session in a retry would use up the deadline.
        services.hub.stop.set()
        # 4. Refuse new clients, and end each session after a complete transaction; it may still use store and MongoDB.
        services.server.stop(deadline)
        # 5. Wait for the dispatcher, which closes its change streams and writes a last checkpoint into the store.
        services.dispatcher.thread.join(min(deadline.remaining(), DISPATCHER_STOP_SECONDS))
        if services.dispatcher.thread.is_alive():
            log.info(kv("not waiting for MongoDB's answer"))
        # 6. Close the store and the connection to MongoDB, for which only a dispatcher without an answer still waits.
        services.hub.store.close()
        services.hub.source.close()
        log.info(kv("zmsd stopped"))

    def _on_stop_signal(self, number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # the second signal kills
        self.stop()

    def _on_thread_death(self, thread: str) -> None:
        log.critical(kv("thread died, exiting", thread=thread))
        self._set_exit_code(1)

    def _set_exit_code(self, code: int) -> None:
        self._exit_code = code if self._exit_code is None else max(code, self._exit_code)

    def _notify_systemd(self) -> None:
        """Send the state. The watchdog is fed while the feed makes progress, or waits in a retry of its own."""
        serves = self.readiness.reason is None
        self._notifier.update(serves, self._services.dispatcher.is_alive(), self._services.monitor.summary())

    def _sync_publications(self) -> None:
        """Publish what all daemons on this store publish, once MongoDB is prepared for what this daemon offers."""
        services = self._services
        try:
            if services.mongodb_prepared.is_set() and services.publications.settle():
                services.publish_current()
        except StoreError as error:
            log.critical(kv("cannot go on, exiting", error=error))
            self._set_exit_code(1)


def run(path: Path | None) -> int:
    """Run the daemon in the main thread, and return the exit code of the process.

    :param path: the settings file; None for the default file
    :raises ConfigError: settings or documents are wrong, before anything is served
    :raises ZmsdError: store, port or certificate cannot be used, before anything is served
    """
    environ = dict(os.environ)
    settings = config.load(path, environ)
    daemon = Daemon(settings, load_documents(settings), path, environ)
    daemon.handle_signals()
    # Objects alive now stay alive, and documents have no cycles: frequent collections would only cost processor time.
    gc.freeze()
    gc.set_threshold(100_000)
    # A session that catches up keeps the interpreter busy, and a live change needs the interpreter about eight times
    # on its way: the usual 5 ms before another thread's turn would add up.
    sys.setswitchinterval(0.0005)
    return daemon.run()
