"""Reload the settings and documents of a running daemon: completely, or not at all."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Thread

from zmsd import log as logs
from zmsd.assembly import Services, limits_of, publication_of, tls_context
from zmsd.config import settings as config
from zmsd.config.partial import credentials_in_use
from zmsd.config.restart import settings_needing_restart
from zmsd.config.settings import Config
from zmsd.errors import SourceUnavailable, ZmsdError
from zmsd.log import kv
from zmsd.reload_result import ReloadRecorder
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.preparation import prepare
from zmsd.retry import REFUSED_WAIT_SECONDS
from zmsd.schema import plan
from zmsd.schema.loading import LoadedDocuments, load_documents
from zmsd.schema.publication import diff
from zmsd.systemd import Notifier

log = logging.getLogger(__name__)


class Reloader:
    """Reload on request. Main thread only, except for ``_load``."""

    def __init__(
        self,
        settings: Config,
        path: Path | None,
        environ: Mapping[str, str],
        services: Services,
        notifier: Notifier,
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        """Prepare for reloads.

        :param settings: the settings of the start, with which those that need a restart are compared
        :param path: the settings file to read; None for the default file
        :param environ: the environment variables that override the file
        :param call_soon: has the main thread call a function
        """
        self._started_with = settings
        self._path = path
        self._environ = environ
        self._services = services
        self._notifier = notifier
        self._call_soon = call_soon
        self._retry_at: float | None = None
        """Monotonic seconds at which a reload that could not reach MongoDB is tried again."""
        self._running = False
        self._requested_again = False
        self.results = ReloadRecorder(settings.watermarks.path.parent)
        """The results of reloads, for ``zmsd reload``."""

    def reload(self) -> None:
        """Read settings and documents again, and apply them; an error in them changes nothing.

        Returns before the reload ends. A reload that is requested during another one follows it.
        """
        # 1. Run one reload at a time, so that an earlier one cannot overwrite a later one.
        self._retry_at = None
        if self._running:
            self._requested_again = True
            return
        self._running = True
        # 2. Note the time, by which ``zmsd reload`` knows the result of this reload, and tell systemd.
        self.results.begin()
        self._notifier.reloading()
        # 3. Read and check in a thread of its own: endpoints and MongoDB may take longer than the watchdog allows.
        Thread(target=self._load, name="reload", daemon=True).start()

    def retry_if_due(self) -> None:
        """Reload if the last reload could not reach MongoDB and MongoDB can be reached again."""
        ready = self._services.hub.readiness.reason is None
        if self._retry_at is not None and ready and time.monotonic() >= self._retry_at:
            self.reload()

    def _load(self) -> None:
        """Read and check everything, then enqueue the outcome for the main thread. Reload thread only."""
        outcome: Callable[[], None]
        try:
            # 4. Read the complete configuration: settings, certificate, documents.
            new = config.load(self._path, self._environ)
            context = tls_context(new.server)
            documents = load_documents(new, fall_back=False)
            # 5. Prepare MongoDB for a new publication, so that a publication which MongoDB refuses changes nothing.
            hub = self._services.hub
            active = self._services.activate(publication_of(new, documents))
            if active.fingerprint != hub.active.fingerprint:
                prepare(hub.source, hub.store, hub.lineage, active, self._started_with.feed.images)
        except SourceUnavailable as error:
            reason = f"cannot check the publication with MongoDB, zmsd will try again: {error}"
            outcome = partial(self._refuse, reason, retry=True)
        except ZmsdError as error:
            outcome = partial(self._refuse, str(error))
        except Exception as error:  # a bug must not leave the daemon in the state of reloading
            log.exception("reload failed")
            outcome = partial(self._refuse, f"failed: {error!r}")
        else:
            outcome = partial(self._apply, new, context, documents, active)
        self._call_soon(partial(self._finish, outcome))

    def _finish(self, outcome: Callable[[], None]) -> None:
        """Apply or refuse what the reload thread has loaded.

        :param outcome: ``_apply`` or ``_refuse`` with its arguments
        """
        self._running = False
        outcome()
        # 10. Tell systemd that the reload has ended, refused or not, and begin a reload that waits for this one.
        self._notifier.reloaded(self._services.monitor.summary())
        if self._requested_again:
            self._requested_again = False
            self.reload()

    def _apply(
        self, new: Config, context: ssl.SSLContext | None, documents: LoadedDocuments, active: ActivePublication
    ) -> None:
        services = self._services
        # 6. Record the publication in the store first: of these steps only this one can fail.
        try:
            services.publications.reload(active.publication)
        except ZmsdError as error:
            self._refuse(str(error))
            return
        # 7. Apply the settings that need no restart.
        logs.setup(new.log.level, new.log.format)
        services.server.apply(limits_of(new.server), context)
        services.monitor.watch_certificate(new.server.tls)
        services.refresh.watch(documents.documents)
        # 8. Have the dispatcher publish the new publication from the end of a transaction on.
        current = services.publications.current
        changes = plan.fields(diff(services.hub.active.publication, current), current)
        services.publish_current()
        # 9. Report the result, with the changes that need a restart.
        restart = settings_needing_restart(self._started_with, new)
        if restart:
            log.warning(kv("changed settings need a restart", settings=",".join(restart)))
        services.monitor.reloaded(restart=restart)  # before the log line, whose reader looks at /status
        summary = kv("reloaded", tables=len(documents.catalog.tables), **changes)
        log.info(summary)
        credentials = credentials_in_use(new)
        if credentials:
            log.info(kv("credentials stay until a restart", names=",".join(credentials)))
        self.results.end(restart=restart, credentials=credentials, summary=str(summary))

    def _refuse(self, reason: str, *, retry: bool = False) -> None:
        """Report why a reload changes nothing.

        :param reason: one line for each error
        :param retry: whether to try again once MongoDB can be reached
        """
        if retry:
            self._retry_at = time.monotonic() + REFUSED_WAIT_SECONDS
        errors = reason.splitlines()
        self._services.monitor.reloaded(errors)
        for error in errors:
            log.error(kv("reload refused", error=error))
        self.results.end(faults=errors)
