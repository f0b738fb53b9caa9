"""Read a part of the settings: the log section of a file with errors, and the settings that one command uses."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from zmsd.config.document import KeyPath
from zmsd.config.reader import Reader
from zmsd.config.settings import ENVIRONMENT, Config, LogConfig, read_document
from zmsd.errors import ConfigError

_SYSTEMD_CREDENTIALS = "/run/credentials"


def load_log(path: Path | None, environ: Mapping[str, str]) -> LogConfig:
    """Return the section ``log`` as far as it can be read, so that errors in the settings are logged as it says."""
    default = LogConfig()
    variables = {name: what for name, what in ENVIRONMENT.items() if what[0] == "log"}
    try:
        document = read_document(path)
    except ConfigError:
        document = None
    reader = Reader(document, environ, variables, "")
    section = reader.data.get("log")
    if not isinstance(section, dict):
        return default
    found = reader.build(LogConfig, section, ("log",))
    return LogConfig(found.level or default.level, found.format or default.format)


def only(*settings: str) -> Callable[[KeyPath], bool]:
    """Return the ``concerns`` of config.load for a command that uses these sections (``nats``) or settings
    (``server.port``) only."""
    used = [tuple(name.split(".")) for name in settings]
    return lambda path: any(path[: len(part)] == part[: len(path)] for part in used)


def without_credentials() -> Callable[[KeyPath], bool]:
    """Return the ``concerns`` of config.load for a process that may not see the unit's credentials."""
    credentials = frozenset(_credential_settings(Config, ()))
    return lambda path: path not in credentials


def credentials_in_use(settings: Config) -> tuple[str, ...]:
    """Return the names of the credentials that the settings use. systemd reads them when it starts the unit only."""
    start: Any = settings
    files = (reduce(_member, path, start) for path in _credential_settings(Config, ()))
    return tuple(file.name for file in files if isinstance(file, Path) and file.is_relative_to(_SYSTEMD_CREDENTIALS))


def _member(section: Any, name: str | int) -> Any:
    return getattr(section, str(name), None)


def _credential_settings(cls: type, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the path of each setting whose file may be a systemd credential."""
    for entry in fields(cls):
        hint = typing.get_type_hints(cls)[entry.name]
        inner = next((part for part in (hint, *typing.get_args(hint)) if is_dataclass(part)), None)
        if inner is not None:
            yield from _credential_settings(typing.cast(type, inner), (*path, entry.name))
        elif entry.metadata.get("credential"):
            yield (*path, entry.name)
