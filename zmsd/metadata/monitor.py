"""Monitor: what the daemon is doing, looked at from outside every two seconds, for people and their monitors."""

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
from zmsd.replication.dispatcher import Dispatcher
from zmsd.replication.hub import Hub

log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between looks."""
POINTS = 150
"""Looks that are kept for the graphs: five minutes."""
_RATE_LOOKS = 5
"""Looks over which a collection's rate is taken: ten seconds."""
_MONGODB_EVERY = 10.0
"""Seconds between looks at the deployment and the beginning of its oplog."""

_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 300.0
"""Seconds between log lines that say what zmsd waits for."""
_CERTIFICATE_EVERY = 12 * 3600.0
"""Seconds between looks at the server's certificate, besides those at the start and after a reload."""


class Point(NamedTuple):
    """One look, for the graphs."""

    when: float
    """Seconds since the epoch."""
    rate: float
    """Change events per second since the look before."""
    lag: float
    """The longest since then, in seconds, from a commit until the change was ready to be sent."""


class Reload(NamedTuple):
    """How a reload ended."""

    when: float
    """Seconds since the epoch."""
    faults: tuple[str, ...]
    """Why it was refused; none: it was not."""
    restart: tuple[str, ...]
    """Sections of the settings that have changed and need a restart."""


class Backlog(NamedTuple):
    """What a client has not been sent yet."""

    seconds: float
    """Age of the oldest of it."""
    transactions: int | None
    """None: older than the change log, nobody has counted them."""


class Monitor:
    """``thread`` makes the looks; all else may be called from any thread, and waits for nobody."""

    def __init__(self, hub: Hub, dispatcher: Dispatcher, sessions: Callable[[], Sequence[Session]]) -> None:
        self.hub = hub
        self.dispatcher = dispatcher
        self.sessions = sessions
        self.started = time.time()
        self.history: tuple[Point, ...] = ()
        self.rates: dict[str, float] = {}
        """Collection -> change events per second."""
        self.last_reload: Reload | None = None
        self.reloads = {"ok": 0, "refused": 0}
        self._certificate: Path | None = None
        self.certificate_end: int | None = None
        """When the server's certificate ends, in seconds since the epoch."""
        self._certificate_time = time.monotonic()
        self.progress = Progress(dispatcher, hub.lineage, hub.readiness)
        self._next_report: float | None = None  # monotonic seconds: when to log again what zmsd waits for
        self._report_pause = _FIRST_PAUSE
        self._oplog_start: int | None = None
        self._looked = False  # the oplog was looked at, or could not be
        self._reachable = True  # at the last look
        self._newest: int | None = None  # position of MongoDB's newest operation at the last look
        self._to_reach: int | None = None  # the same at the look before
        self._mongodb_time = 0.0
        self._clock_time = 0.0
        self._looks: deque[tuple[float, Counter[str]]] = deque(maxlen=_RATE_LOOKS + 1)
        self._stop = Event()
        self.thread = Thread(target=self._run, name="monitor", daemon=True)

    def start(self) -> None:
        """Start the sampling thread. Main thread only."""
        self.thread.start()

    def stop(self) -> None:
        """Ask the sampling thread to end, without waiting for it. Thread-safe."""
        self._stop.set()

    def reloaded(self, faults: Sequence[str] = (), restart: Sequence[str] = ()) -> None:
        """A reload has ended; for the main thread."""
        self.reloads["refused" if faults else "ok"] += 1
        self.last_reload = Reload(time.time(), tuple(faults), tuple(restart))

    @property
    def reason(self) -> str | None:
        """Why changes do not arrive just now; None: they do."""
        found = (self.progress.waits_for_majority, self.hub.readiness.reason, self.progress.waits)
        return "; ".join(reason for reason in found if reason is not None) or None

    def watch_certificate(self, files: TlsConfig | None) -> None:
        """The server uses these files from now on; for the main thread."""
        self._certificate = None if files is None else files.cert
        self.look_at_certificate()

    @property
    def position_age(self) -> float | None:
        """Seconds since the moment up to which everything is known; None before the feed first runs."""
        reached = self.dispatcher.position
        return None if reached is None else max(time.time() - position.seconds(reached), 0.0)

    @property
    def behind(self) -> float | None:
        """Seconds by which the feed is behind MongoDB; 0 if it has read what MongoDB had at the look before the last
        one, for an idle database writes something only every ten seconds. None before the feed first runs."""
        reached = self.dispatcher.position
        if reached is not None and self.reason is None and self._to_reach is not None and reached >= self._to_reach:
            return 0.0
        return self.position_age

    @property
    def oplog_note(self) -> str:
        """What the headroom means, or why it is unknown."""
        if not self._reachable:
            return "MongoDB cannot be reached" + ("" if self.oplog_headroom is None else "; this was so before")
        if self.oplog_headroom is not None:
            return "zmsd may be away for so long"
        if not self._looked or self.dispatcher.position is None:
            return "not read yet"
        if self.hub.source.deployment.sharded:
            return "not known behind mongos"
        return "zmsd may not read local.oplog.rs"

    @property
    def oplog_headroom(self) -> float | None:
        """Seconds by which the oplog reaches back behind that moment; None where zmsd may not look at it."""
        reached, start = self.dispatcher.position, self._oplog_start
        return None if reached is None or start is None else float(position.seconds(reached) - position.seconds(start))

    def acked_age(self, session: Session) -> float | None:
        """Seconds since the newest commit that a client has confirmed, 0 if there is nothing that it has not confirmed;
        None before it has its copy."""
        acked = session.acked or session.subscription.last_watermark
        if acked is not None and session.sent is not None and acked >= session.sent and self.reason is None:
            backlog = self.backlog(session)
            if backlog is not None and backlog.transactions == 0:
                return 0.0
        return None if acked is None else max(time.time() - position.seconds(position.parse(acked)[0]), 0.0)

    def backlog(self, session: Session) -> Backlog | None:
        """None before the client has its copy."""
        sent = session.streamed_to
        if sent is None:
            return None
        behind = self.hub.log.behind(sent)
        if behind is None:
            return Backlog(max(time.time() - position.seconds(position.parse(sent)[0]), 0.0), None)
        count, oldest_ms = behind
        return Backlog(max(time.time() - oldest_ms / 1000, 0.0) if count else 0.0, count)

    def words(self) -> str:
        """The state in one line."""
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
        if self.hub.store.trouble is not None:
            text += "; the watermark store cannot be written"
        if self.hub.problems.current:
            text += f"; {_count(len(self.hub.problems.current), 'problem')} with what is published"
        if self.last_reload is not None and self.last_reload.faults:
            text += "; the last reload was refused"
        return text

    # THE MONITOR'S OWN THREAD

    def look(self, now: float) -> None:
        """:param now: monotonic seconds"""
        counters = self.hub.counters
        events = counters.events.copy()
        before, then = self._looks[-1] if self._looks else (now, events)
        self._looks.append((now, events))
        oldest, at_oldest = self._looks[0]
        span = max(now - oldest, EVERY)
        self.rates = {name: (count - at_oldest[name]) / span for name, count in events.items()}
        rate = (events.total() - then.total()) / max(now - before, EVERY)
        lag = counters.worst_lag()
        if lag is None:  # nothing has come: because nothing happened, or because the feed does not run
            lag = 0.0 if self.reason is None else self.position_age or 0.0
        self.history = (*self.history[-POINTS + 1 :], Point(time.time(), rate, lag))
        self._report(now)

    def _report(self, now: float) -> None:
        """Log what zmsd waits for, because no error reports it: at first, after ten seconds, and then less often."""
        waits = self.progress.waits_for_majority or self.progress.waits
        if waits is None:
            if self._next_report is not None:
                log.info("progress again")
            self._next_report = None
        elif self._next_report is None or now >= self._next_report:
            first = self._next_report is None
            self._report_pause = _FIRST_PAUSE if first else min(2 * self._report_pause, _LONGEST_PAUSE)
            self._next_report = now + self._report_pause
            log.warning(kv("no progress", reason=waits))

    def look_at_published(self) -> None:
        """Look at the published collections, while the feed runs. May wait for MongoDB."""
        hub = self.hub
        if hub.readiness.reason is None:
            with suppress(SourceError):  # the dispatcher reports it
                self._to_reach, self._newest = self._newest, hub.source.operation_time()
                hub.problems.look(hub.source, hub.active)
                hub.problems.look_at_fields(hub.source)

    def look_at_certificate(self) -> None:
        """Read when the server's certificate ends, and log an end that is near."""
        file = self._certificate
        self.certificate_end = None if file is None else tls.expiry(file)
        if file is not None and (warning := tls.expiry_warning(file, time.time())):
            log.warning(kv("certificate must be renewed", reason=warning))

    def look_at_mongodb(self) -> None:
        """May wait for MongoDB."""
        self._looked = True
        try:
            self.hub.source.look()
            self.progress.majority.look(self.hub.source.command({"hello": 1}))
        except SourceError:  # the dispatcher reports it
            self._reachable = False
            self.progress.majority.forget()
            return
        self._reachable = True
        self._oplog_start = self.hub.source.oplog_start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(EVERY):
                now = time.monotonic()
                self.look(now)
                self.look_at_published()
                if now - self._mongodb_time >= _MONGODB_EVERY:
                    self._mongodb_time = now
                    self.look_at_mongodb()
                if now - self._certificate_time >= _CERTIFICATE_EVERY:
                    self._certificate_time = now
                    self.look_at_certificate()
                if now - self._clock_time >= self.hub.lag_report:
                    self._clock_time = now
                    if self.hub.store.trouble is not None:
                        with suppress(StoreError):  # its trouble stays, and is reported
                            self.hub.store.probe()
                    self.hub.probes.take()
        except Exception:  # a bug: the page gets no new points, and all else goes on
            log.exception("monitor failed")


def memory_bytes() -> int:
    """What the process holds of the machine's memory."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
