"""Messages to systemd, by the protocol of sd_notify(3).

Without ``NOTIFY_SOCKET`` (a terminal, a container) nothing is sent. No function raises: zmsd serves also when the
service manager does not listen.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable

SEND_TIMEOUT_SECONDS = 1.0
"""Longest wait for a full queue of the service manager: the main thread must not hang."""
STATUS_INTERVAL_SECONDS = 10.0
"""After this time an unchanged status is sent again."""
START_RETRY_SECONDS = 5.0
"""From a failed start to the next start."""
READY_WITHIN_SECONDS = 10.0
"""After this time READY=1 is sent although MongoDB's changes are not being served yet, with the reason in STATUS=:
``systemctl start`` waits for READY=1, and MongoDB may be away for hours."""


def notify(*assignments: str) -> bool:
    """Send ``KEY=value`` lines in one datagram, and return whether the service manager's socket took them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux' abstract namespace
    elif not address.startswith("/"):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(SEND_TIMEOUT_SECONDS)
            sock.connect(address)
            sock.sendall("\n".join(assignments).encode(errors="replace"))
    except (OSError, ValueError):
        return False
    return True


def ready(text: str) -> bool:
    """Report that the start, or a reload, has ended."""
    return notify("READY=1", _status(text))


def status(text: str) -> bool:
    """Report the state, one line for ``systemctl status``."""
    return notify(_status(text))


def reloading(text: str = "reloading") -> bool:
    """Report that a reload begins. ``ready`` must follow, whether the reload succeeds or not."""
    # systemd compares this time with the time of its own request; sd_notify(3) requires CLOCK_MONOTONIC.
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}", _status(text))


def stopping(text: str = "stopping") -> bool:
    """Report that the stop begins."""
    return notify("STOPPING=1", _status(text))


def pause_before_restart() -> None:
    """Wait START_RETRY_SECONDS if systemd restarts this process.

    Otherwise a start that fails at once would be repeated ten times a second: RestartSec= of the unit is 100 ms, so
    that a killed process is back soon, and RestartSteps= needs systemd 254.
    """
    if os.environ.get("NOTIFY_SOCKET"):
        time.sleep(START_RETRY_SECONDS)


def watchdog() -> bool:
    """Send a sign of life, due every ``watchdog_interval()`` seconds."""
    return notify("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """Return the seconds between two signs of life, half of WatchdogSec= of the unit; None without a watchdog."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 2e6 if microseconds > 0 else None


class Notifier:
    """Send the state of the daemon to systemd, as often as needed. Main thread only.

    READY=1 is sent at the first update at which MongoDB's changes are being served, or READY_WITHIN_SECONDS after the
    first update.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare to send.

        :param clock: seconds, from any start
        """
        self.announced = False
        """READY=1 was sent."""
        self._clock = clock
        self._watchdog_interval = watchdog_interval()
        self._first_update: float | None = None
        self._status = ""
        """The status that was sent last."""
        self._status_at = self._fed_at = -math.inf

    @property
    def pause(self) -> float:
        """Seconds until the next ``update``, at most."""
        return min(1.0 if self.announced else 0.1, (self._watchdog_interval or math.inf) / 2)

    def update(self, serving: bool, alive: bool, text: str) -> None:
        """Send what has changed or is due.

        :param serving: whether MongoDB's changes are being served
        :param alive: whether to feed the watchdog
        :param text: the state in one line
        """
        now = self._clock()
        if self._first_update is None:
            self._first_update = now
        if not self.announced and (serving or now - self._first_update >= READY_WITHIN_SECONDS):
            self.announced = True
            self._status, self._status_at = text, now
            ready(text)
        elif text != self._status or now - self._status_at >= STATUS_INTERVAL_SECONDS:
            self._status, self._status_at = text, now
            status(text)
        if alive and self._watchdog_interval is not None and now - self._fed_at >= self._watchdog_interval / 2:
            self._fed_at = now
            watchdog()

    def reloading(self) -> None:
        """Report that a reload begins. Nothing is sent before READY=1, because the end of a reload sends READY=1."""
        if self.announced:
            reloading()

    def reloaded(self, text: str) -> None:
        """Report that a reload has ended, applied or refused.

        :param text: the state in one line
        """
        if self.announced:
            self._status, self._status_at = text, self._clock()
            ready(text)


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())  # a line break would end the assignment
