"""The systemd unit that runs with a configuration file, for an administrator's commands beside it.

The daemon gets its credentials and its state directory from systemd (systemd.exec(5)). A command that an administrator
starts gets neither, and finds both here: by the name of the settings file, as the shipped units have it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from zmsd.config.document import KeyPath
from zmsd.config.settings import DEFAULT_FILE, Config, load

UNIT_DIRECTORIES = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
CREDENTIAL_STORES = ("etc/credstore", "run/credstore", "usr/local/lib/credstore", "usr/lib/credstore")
"""Where systemd looks for a credential that LoadCredential= names without a path (systemd.exec(5))."""
_COMMAND_SECONDS = 10.0


class Unit:
    """A systemd unit of zmsd. ``root`` is the root directory, another one for tests only."""

    def __init__(self, name: str, root: Path = Path("/")) -> None:
        self.name = name
        self._root = root
        prefix = name.removesuffix(".service").replace("@", "-")
        self.state_directory = root / "var/lib" / prefix
        self._named = {key: f"{prefix}.{key}" for key in ("mongodb_uri", "token")}
        self._sources: dict[str, str] | None = None

    def main_pid(self) -> int | None:
        """Return the process id of the daemon; None where it does not run, or systemd cannot be asked."""
        text = _output("systemctl", "show", "--property=MainPID", "--value", self.name)
        return int(text) if text.isascii() and text.isdigit() and int(text) else None

    def running(self, name: str) -> Path | None:
        """Return the running daemon's copy of a credential; None where there is none or this user may not see it."""
        return _visible(self._root / "run/credentials" / self.name / name)

    def source(self, name: str) -> Path | None:
        """Return the file that systemd makes the credential of at the next start; None where it cannot be found."""
        return next((file for file in self._candidates(name) if _visible(file)), None)

    def searched(self, name: str) -> str:
        """Return where ``running`` and ``source`` look, for an error message."""
        files = [self._root / "run/credentials" / self.name / name, *self._candidates(name)[:1]]
        user = "" if os.geteuid() == 0 else "; only root may read these"
        return ", ".join(map(str, files)) + user

    def changed(self, names: Iterable[str]) -> Iterator[tuple[str, Path]]:
        """Yield each credential whose source is not what the running daemon was started with, and that source."""
        for name in names:
            source, running = self.source(name), self.running(name)
            if source is not None and running is not None and source.read_bytes() != running.read_bytes():
                yield name, source

    def _candidates(self, name: str) -> list[Path]:
        if self._sources is None:
            self._sources = _load_credential(self.name) or self._named
        source = self._sources.get(name)
        if source is None:
            return []
        if source.startswith("/"):
            return [self._root / source[1:]]
        return [self._root / store / source for store in CREDENTIAL_STORES]


class UnitCredentials:
    """The credentials of a unit, for the reader of settings."""

    def __init__(self, unit: Unit, *, running: bool) -> None:
        """:param running: prefer those of the running daemon to those of the next start"""
        self._order = (unit.running, unit.source) if running else (unit.source, unit.running)
        self._unit = unit

    def find(self, name: str) -> Path | None:
        """Return the file of a credential, where it can be read; None if there is none. Thread-safe."""
        if "/" in name:
            return None
        return next((file for look in self._order if (file := look(name)) is not None), None)

    def searched(self, name: str) -> str:
        """Return where ``find`` looks, for an error message."""
        return "" if "/" in name else self._unit.searched(name)


def unit_of(path: Path | None, environ: Mapping[str, str], root: Path = Path("/")) -> Unit | None:
    """Return the installed unit whose settings are in ``path``: /etc/zmsd/zmsd.yaml is of zmsd.service, another
    /etc/zmsd/NAME.yaml of zmsd@NAME.service. None for other files, without a unit, and within a unit."""
    file = Path(os.path.abspath(path or DEFAULT_FILE))
    within = environ.get("CREDENTIALS_DIRECTORY") or environ.get("STATE_DIRECTORY")
    if within or file.suffix != ".yaml" or file.parent != root / DEFAULT_FILE.parent.relative_to("/"):
        return None
    template, name = ("zmsd.service",) * 2 if file.stem == "zmsd" else ("zmsd@.service", f"zmsd@{file.stem}.service")
    installed = any((root / directory / template).exists() for directory in UNIT_DIRECTORIES)
    return Unit(name, root) if installed else None


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    concerns: Callable[[KeyPath], bool] = lambda path: True,
    running: bool = False,
) -> Config:
    """Return the settings as the daemon of ``path`` has them, with the credentials and state directory of its unit.

    :param concerns: as of config.load
    :param running: prefer the credentials of the running daemon to those of its next start
    """
    unit = unit_of(path, environ)
    if unit is None:
        return load(path, environ, concerns=concerns)
    environ = {**environ, "STATE_DIRECTORY": str(unit.state_directory)}
    return load(path, environ, credentials=UnitCredentials(unit, running=running), concerns=concerns)


def _visible(file: Path) -> Path | None:
    return file if os.access(file, os.R_OK) else None


def _load_credential(unit: str) -> dict[str, str]:
    """Return LoadCredential= of a unit, name -> source, drop-ins included; {} where systemd cannot be asked."""
    escaped = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"_{byte:02x}" for byte in unit.encode())
    path = f"/org/freedesktop/systemd1/unit/{escaped}"
    service = "org.freedesktop.systemd1"
    text = _output("busctl", "--json=short", "get-property", service, path, f"{service}.Service", "LoadCredential")
    try:
        return dict(json.loads(text)["data"])
    except (ValueError, KeyError, TypeError):
        return {}


def _output(*command: str) -> str:
    """Return what a command of systemd prints; "" where it fails or is not installed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
