"""The settings that a reload does not apply.

A field with ``restart=True`` in config/settings.py needs a restart; a reload applies every other field.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from zmsd.config.settings import Config

_NAME = "started-with.json"
_CREDENTIALS = {"mongodb.uri_file", "nats.creds"}


def settings_needing_restart(started_with: Config, new: Config) -> list[str]:
    """Return the names of the settings that differ and that a reload does not apply, such as ``feed.scope``."""
    old, now = dict(_values(started_with)), dict(_values(new))
    return [name for name in now | old if old.get(name) != now.get(name)]


def write_started_with(directory: Path, settings: Config) -> None:
    """Write what ``changed_since_start`` needs. Raises OSError.

    The file has a digest of each setting, with a salt, because some of them have passwords.
    """
    salt = secrets.token_hex(16)
    file = directory / _NAME
    directory.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    digests = _digests(salt, settings)
    new.write_text(json.dumps({"pid": os.getpid(), "salt": salt, "settings": digests}))
    new.replace(file)


def changed_since_start(directory: Path, new: Config) -> list[str] | None:
    """Return the names of the settings for which the daemon with this state directory needs a restart.

    None where no daemon runs, or it cannot be known.
    """
    try:
        data = json.loads((directory / _NAME).read_text())
        pid, salt, known = int(data["pid"]), str(data["salt"]), dict(data["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not Path(f"/proc/{pid}").exists():
        return None
    now = _digests(salt, new)
    return [name for name in now | known if known.get(name) != now.get(name)]


def _digests(salt: str, settings: Config) -> dict[str, str]:
    """Return name -> digest. Files that may be credentials are left out: a command has them elsewhere."""
    return {
        name: hashlib.sha256(f"{salt} {value.absolute() if isinstance(value, Path) else value!r}".encode()).hexdigest()
        for name, value in _values(settings)
        if name not in _CREDENTIALS
    }


def _values(settings: Config) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of each setting that needs a restart."""
    for section in fields(Config):
        yield from _of(section.name, getattr(settings, section.name), bool(section.metadata.get("restart")))


def _of(name: str, value: Any, restart: bool) -> Iterator[tuple[str, Any]]:
    if not is_dataclass(value):
        if restart:
            yield name, value
        return
    for entry in fields(value):
        inner = getattr(value, entry.name)
        yield from _of(f"{name}.{entry.name}", inner, restart or bool(entry.metadata.get("restart")))
