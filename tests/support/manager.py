"""A service manager that receives the messages of a process over NOTIFY_SOCKET."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.support.wait import wait_until


class Message(NamedTuple):
    when: float
    """Monotonic seconds."""
    fields: dict[str, str]


class ServiceManager:
    """``environment`` is for the process; ``messages`` are in the order of their arrival."""

    def __init__(self, watchdog_seconds: float | None = None) -> None:
        # not tmp_path: an address has room for 107 bytes
        self._directory = tempfile.mkdtemp(prefix="zmsd-notify-")
        address = str(Path(self._directory, "notify"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(0.1)
        self.environment = {"NOTIFY_SOCKET": address}
        if watchdog_seconds is not None:
            self.environment["WATCHDOG_USEC"] = str(int(watchdog_seconds * 1e6))
        self.messages: list[Message] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="manager", daemon=True)

    def __enter__(self) -> ServiceManager:
        self._thread.start()
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)
        self._socket.close()
        shutil.rmtree(self._directory)

    def having(self, key: str, value: str = "", after: int = 0) -> list[Message]:
        """Return the messages from number ``after`` on that have a field with this text in its value."""
        return [it for it in self.messages[after:] if key in it.fields and value in it.fields[key]]

    def wait(self, key: str, value: str = "", *, after: int = 0, count: int = 1, timeout: float = 30) -> list[Message]:
        """Wait for that many such messages."""
        wait_until(lambda: len(self.having(key, value, after)) >= count, f"{count} × {key}=…{value}…", timeout)
        return self.having(key, value, after)

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                text = self._socket.recv(65536).decode()
            except TimeoutError:
                continue
            fields = dict(line.partition("=")[::2] for line in text.split("\n"))
            self.messages.append(Message(time.monotonic(), fields))
