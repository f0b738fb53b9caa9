"""What zmsd tells systemd, by the protocol of sd_notify(3).

Without ``NOTIFY_SOCKET`` (a terminal, a container) nothing is sent. Nothing here raises: a service manager that does
not listen is no reason to stop.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable

# The send blocks while the manager's queue is full; the main thread must not hang on it.
SEND_TIMEOUT = 1.0

STATUS_EVERY = 10.0
"""Seconds after which a state that has not changed is said again."""
START_RETRY_SECONDS = 5.0
"""Seconds from a start that failed to the next one."""
READY_WITHIN_SECONDS = 10.0
"""Seconds after which a daemon that listens sends READY=1 although it does not serve yet, with the reason in STATUS=:
``systemctl start`` waits for READY=1, and MongoDB may be away for hours."""


def notify(*assignments: str) -> bool:
    """Send ``KEY=value`` lines in one datagram; True when the manager's socket has taken them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux' abstract namespace
    elif not address.startswith("/"):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(SEND_TIMEOUT)
            sock.connect(address)
            sock.sendall("\n".join(assignments).encode(errors="replace"))
    except (OSError, ValueError):
        return False
    return True


def ready(text: str) -> bool:
    """It serves; also the end of a reload."""
    return notify("READY=1", _status(text))


def status(text: str) -> bool:
    """The state in words, for ``systemctl status``."""
    return notify(_status(text))


def reloading(text: str = "reloading") -> bool:
    """A reload begins; ``ready`` must follow, whether the reload succeeds or not."""
    # systemd compares this time with that of its own request; it wants CLOCK_MONOTONIC by name.
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}", _status(text))


def stopping(text: str = "stopping") -> bool:
    """The stop has begun."""
    return notify("STOPPING=1", _status(text))


def pause_before_restart() -> None:
    """Wait, where systemd restarts this process, so that a start which fails at once is not repeated ten times a
    second: RestartSec is 100 ms for the sake of a process that was killed, and RestartSteps needs systemd 254."""
    if os.environ.get("NOTIFY_SOCKET"):
        time.sleep(START_RETRY_SECONDS)


def watchdog() -> bool:
    """A sign of life, to be given every ``watchdog_interval()`` seconds."""
    return notify("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """Seconds between two signs of life, half of the unit's WatchdogSec; None when systemd does not watch us."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 2e6 if microseconds > 0 else None


class Conversation:
    """Send systemd the state of the daemon, one ``tick`` after the other. Main thread only.

    READY=1 is sent at the first tick at which the daemon serves, or READY_WITHIN_SECONDS after the first tick.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.announced = False
        """READY=1 was sent."""
        self._clock = clock
        self._interval = watchdog_interval()
        self._first_tick: float | None = None
        self._said = ""
        self._said_at = self._fed_at = -math.inf

    @property
    def pause(self) -> float:
        """Seconds until the next tick at most."""
        return min(1.0 if self.announced else 0.1, (self._interval or math.inf) / 2)

    def tick(self, serves: bool, alive: bool, text: str) -> None:
        """Send what has changed or is due.

        :param serves: whether MongoDB's changes are being served
        :param alive: whether to feed the watchdog
        :param text: the state in words
        """
        now = self._clock()
        if self._first_tick is None:
            self._first_tick = now
        if not self.announced and (serves or now - self._first_tick >= READY_WITHIN_SECONDS):
            self.announced = True
            self._said, self._said_at = text, now
            ready(text)
        elif text != self._said or now - self._said_at >= STATUS_EVERY:
            self._said, self._said_at = text, now
            status(text)
        if alive and self._interval is not None and now - self._fed_at >= self._interval / 2:
            self._fed_at = now
            watchdog()

    def reloading(self) -> None:
        """A reload begins. Before READY=1 there is nothing to say: what ends a reload would announce it."""
        if self.announced:
            reloading()

    def reloaded(self, text: str) -> None:
        """It has ended, well or not."""
        if self.announced:
            self._said, self._said_at = text, self._clock()
            ready(text)


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())  # a line break would begin another assignment
