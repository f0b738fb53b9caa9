"""Monitor: sample the daemon's state every two seconds, for ``/status``, ``/readyz``, the metrics and the log."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from zmsd import position
from zmsd.config.settings import TlsConfig
from zmsd.errors import SourceError, StoreError
from zmsd.gateway import tls
from zmsd.gateway.session import Session
from zmsd.log import kv
from zmsd.metadata.progress import Progress
from zmsd.metadata.replica_lags import ReplicaLags
from zmsd.replication.dispatcher import STALLED_SECONDS, Dispatcher
from zmsd.replication.hub import Hub
from zmsd.watermarks.base import Replica

log = logging.getLogger(__name__)

SAMPLE_INTERVAL_SECONDS = 2.0
"""Seconds between samples."""
HISTORY_SAMPLES = 150
"""Samples that are kept for the graphs: five minutes."""
_RATE_SAMPLES = 5
"""Samples over which a collection's rate is computed: ten seconds."""
_MONGODB_INTERVAL_SECONDS = 10.0
"""Seconds between checks of the deployment and of the oplog's first entry."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 300.0
"""Seconds between log lines about what zmsd waits for."""
_CERTIFICATE_INTERVAL_SECONDS = 12 * 3600.0
"""Seconds between checks of the server's certificate, besides those at the start and after a reload."""


class Point(NamedTuple):
    """One sample, for the graphs."""

    when: float
    """Seconds since the epoch."""
    rate: float
    """Change events per second since the sample before."""
    lag: float
    """The longest time since then, in seconds, from a commit until the change was ready to be sent."""


class Reload(NamedTuple):
    """How a reload ended."""

    when: float
    """Seconds since the epoch."""
    faults: tuple[str, ...]
    """Configuration errors that refused it; the name is part of ``/status.json``."""
    restart: tuple[str, ...]
    """Sections of the settings that have changed and need a restart."""


class Backlog(NamedTuple):
    """The changes that a client has not been sent yet."""

    seconds: float
    """Age of the oldest change."""
    transactions: int | None
    """Number of transactions; None if some are older than the change log, which alone counts them."""


class Monitor:
    """Sample the daemon in a thread of its own.

    ``start``, ``reloaded`` and ``watch_certificate`` are for the main thread, and ``sample`` and the ``check`` methods
    for ``thread``. Everything else is thread-safe and waits neither for MongoDB nor for a client.
    """

    def __init__(self, hub: Hub, dispatcher: Dispatcher, sessions: Callable[[], Sequence[Session]]) -> None:
        """:param sessions: returns the sessions that are connected now"""
        self.hub = hub
        self.dispatcher = dispatcher
        self.sessions = sessions
        self.started = time.time()
        self.history: tuple[Point, ...] = ()
        self.replica_lags = ReplicaLags(HISTORY_SAMPLES)
        self.rates: dict[str, float] = {}
        """Collection -> change events per second."""
        self.last_reload: Reload | None = None
        self.reloads = {"ok": 0, "refused": 0}
        self._certificate: Path | None = None
        self.certificate_end: int | None = None
        """When the server's certificate expires, in seconds since the epoch; None if there is none."""
        self._certificate_time = time.monotonic()
        self.progress = Progress(dispatcher, hub.lineage, hub.readiness)
        self._next_report: float | None = None  # monotonic seconds of the next log line about what zmsd waits for
        self._report_pause = _FIRST_PAUSE_SECONDS
        self._oplog_start: int | None = None
        self._oplog_checked = False  # the oplog was read, or could not be
        self._reachable = True  # at the last check
        self._newest: int | None = None  # position of MongoDB's newest operation at the last check
        self._to_reach: int | None = None  # the same at the check before
        self._mongodb_time = 0.0
        self._clock_time = 0.0
        self._samples: deque[tuple[float, Counter[str]]] = deque(maxlen=_RATE_SAMPLES + 1)
        self._stop = Event()
        self.thread = Thread(target=self._run, name="monitor", daemon=True)

    def start(self) -> None:
        """Start the sampling thread. Main thread only."""
        self.thread.start()

    def stop(self) -> None:
        """Ask the sampling thread to end, without waiting for it. Thread-safe."""
        self._stop.set()

    def reloaded(self, errors: Sequence[str] = (), restart: Sequence[str] = ()) -> None:
        """Record how a reload ended. Main thread only.

        :param errors: configuration errors that refused it
        :param restart: settings whose changes need a restart
        """
        self.reloads["refused" if errors else "ok"] += 1
        self.last_reload = Reload(time.time(), tuple(errors), tuple(restart))

    @property
    def reason(self) -> str | None:
        """Return why changes do not arrive at the moment; None if they do."""
        found = (self.progress.waits_for_majority, self.hub.readiness.reason, self.progress.waits)
        return "; ".join(reason for reason in found if reason is not None) or None

    def watch_certificate(self, files: TlsConfig | None) -> None:
        """Check the certificate in ``files``, which the server uses from now on. Main thread only."""
        self._certificate = None if files is None else files.cert
        self.check_certificate()

    @property
    def position_age(self) -> float | None:
        """Return the seconds since the cluster time up to which the feed has read; None before it first runs."""
        reached = self.dispatcher.position
        return None if reached is None else max(time.time() - position.seconds(reached), 0.0)

    @property
    def behind(self) -> float | None:
        """Return the seconds by which the feed is behind MongoDB; None before the feed first runs.

        0 if the feed has read everything that MongoDB had at the last check but one: an idle database writes a no-op
        only every ten seconds, so ``position_age`` rises to ten seconds without a backlog.
        """
        reached = self.dispatcher.position
        if reached is not None and self.reason is None and self._to_reach is not None and reached >= self._to_reach:
            return 0.0
        return self.position_age

    @property
    def oplog_note(self) -> str:
        """Return what the headroom means, or why it is unknown."""
        if not self._reachable:
            return "MongoDB cannot be reached" + ("" if self.oplog_headroom is None else "; this is an old value")
        if self.oplog_headroom is not None:
            return "zmsd may be stopped for this long"
        if not self._oplog_checked or self.dispatcher.position is None:
            return "not read yet"
        if self.hub.source.deployment.sharded:
            return "unknown behind mongos"
        return "zmsd may not read local.oplog.rs"

    @property
    def oplog_headroom(self) -> float | None:
        """Return the seconds from the oplog's first entry to the position of the feed; None if zmsd may not read the
        oplog."""
        reached, start = self.dispatcher.position, self._oplog_start
        return None if reached is None or start is None else float(position.seconds(reached) - position.seconds(start))

    def acked_age(self, session: Session) -> float | None:
        """Return the seconds since the newest commit that a client has acknowledged; None before its initial sync.

        0 if the client has acknowledged everything and has no backlog.
        """
        acked = session.acked or session.subscription.last_watermark
        if acked is not None and session.sent is not None and acked >= session.sent and self.reason is None:
            backlog = self.backlog(session)
            if backlog is not None and backlog.transactions == 0:
                return 0.0
        return None if acked is None else max(time.time() - position.seconds(position.parse(acked)[0]), 0.0)

    def backlog(self, session: Session) -> Backlog | None:
        """Return what a client has not been sent yet; None before its initial sync."""
        sent = session.streamed_to
        if sent is None:
            return None
        behind = self.hub.log.behind(sent)
        if behind is None:
            return Backlog(max(time.time() - position.seconds(position.parse(sent)[0]), 0.0), None)
        count, oldest_ms = behind
        return Backlog(max(time.time() - oldest_ms / 1000, 0.0) if count else 0.0, count)

    def summary(self) -> str:
        """Return the daemon's state in one line, as ``systemctl status`` and ``/status`` show it."""
        reason = self.reason
        sessions = self.sessions()
        if reason is not None:
            text = f"not ready: {reason}"
            if sessions:
                text += f"; {_count(len(sessions), 'client')} waiting"
        else:
            text = f"serving {_count(len(self.hub.active.watched), 'collection')}"
            text += f" to {_count(len(sessions), 'client')}" if sessions else ", no client is connected"
            copying = sum(session.copy is not None for session in sessions)
            text += f", {copying} copying" if copying else ""
        if (catch_up := self.hub.catch_up.stalled(STALLED_SECONDS)) is not None:
            text += f"; {catch_up}"
        if self.hub.store.trouble is not None:
            text += "; the watermark store cannot be written"
        if self.hub.problems.current:
            text += f"; {_count(len(self.hub.problems.current), 'problem')} with published names"
        if self.last_reload is not None and self.last_reload.faults:
            text += "; the last reload was refused"
        return text

    # THE MONITOR'S OWN THREAD

    def sample(self, now: float) -> None:
        """Take one sample.

        :param now: monotonic seconds
        """
        counters = self.hub.counters
        events = counters.events.copy()
        before, then = self._samples[-1] if self._samples else (now, events)
        self._samples.append((now, events))
        oldest, at_oldest = self._samples[0]
        span = max(now - oldest, SAMPLE_INTERVAL_SECONDS)
        self.rates = {name: (count - at_oldest[name]) / span for name, count in events.items()}
        rate = (events.total() - then.total()) / max(now - before, SAMPLE_INTERVAL_SECONDS)
        lag = counters.worst_lag()
        if lag is None:  # no event has come: nothing was written, or the feed does not run
            lag = 0.0 if self.reason is None else self.position_age or 0.0
        self.replica_lags.sample(self._replica_lags())
        self.history = (*self.history[-HISTORY_SAMPLES + 1 :], Point(time.time(), rate, lag))
        self._report(now)

    def _replica_lags(self) -> dict[Replica, float]:
        """Return the seconds by which each connected replica is or was behind since the last sample.

        This is the longest time from a commit until its sending, or the age of the oldest change that waits.
        """
        sent = self.hub.counters.worst_sent_lags()
        waiting = 0.0 if self.reason is None else self.position_age or 0.0
        lags: dict[Replica, float] = {}
        for session in self.sessions():
            replica, backlog = session.replica, self.backlog(session)
            if replica.version and backlog is not None:
                lag = max(backlog.seconds, sent.get(session.number, 0.0), waiting)
                lags[replica] = max(lag, lags.get(replica, 0.0))
        return lags

    def _report(self, now: float) -> None:
        """Log what zmsd waits for, because no error reports it: at once, after ten seconds, and then less often."""
        catch_up = self.hub.catch_up.stalled(STALLED_SECONDS)
        waits = self.progress.waits_for_majority or self.progress.waits or catch_up
        if waits is None:
            if self._next_report is not None:
                log.info("progress again")
            self._next_report = None
        elif self._next_report is None or now >= self._next_report:
            first = self._next_report is None
            self._report_pause = _FIRST_PAUSE_SECONDS if first else min(2 * self._report_pause, _LONGEST_PAUSE_SECONDS)
            self._next_report = now + self._report_pause
            log.warning(kv("no progress", reason=waits))

    def check_published(self) -> None:
        """Check the published collections while the feed runs. May wait for MongoDB."""
        hub = self.hub
        if hub.readiness.reason is None:
            with suppress(SourceError):  # the dispatcher reports it
                self._to_reach, self._newest = self._newest, hub.source.operation_time()
                hub.problems.check(hub.source, hub.active)
                hub.problems.check_fields(hub.source)

    def check_certificate(self) -> None:
        """Read when the server's certificate expires, and log a warning if that is soon."""
        file = self._certificate
        self.certificate_end = None if file is None else tls.expiry(file)
        if file is not None and (warning := tls.expiry_warning(file, time.time())):
            log.warning(kv("certificate must be renewed", reason=warning))

    def check_mongodb(self) -> None:
        """Check the deployment, its majority commit point and the oplog's first entry. May wait for MongoDB."""
        self._oplog_checked = True
        try:
            self.hub.source.look()
            self.progress.majority.observe(self.hub.source.command({"hello": 1}))
        except SourceError:  # the dispatcher reports it
            self._reachable = False
            self.progress.majority.forget()
            return
        self._reachable = True
        self._oplog_start = self.hub.source.oplog_start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(SAMPLE_INTERVAL_SECONDS):
                now = time.monotonic()
                self.sample(now)
                self.check_published()
                if now - self._mongodb_time >= _MONGODB_INTERVAL_SECONDS:
                    self._mongodb_time = now
                    self.check_mongodb()
                if now - self._certificate_time >= _CERTIFICATE_INTERVAL_SECONDS:
                    self._certificate_time = now
                    self.check_certificate()
                if now - self._clock_time >= self.hub.lag_report:
                    self._clock_time = now
                    if self.hub.store.trouble is not None:
                        with suppress(StoreError):  # ``trouble`` stays set and is reported
                            self.hub.store.probe()
                    self.hub.probes.take()
        except Exception:  # a bug: the graphs get no new samples, and the daemon goes on
            log.exception("monitor failed")


def memory_bytes() -> int:
    """Return the resident memory of the process, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
