"""The settings that a reload does not apply.

A field with ``restart=True`` in config/settings.py needs a restart; a reload applies every other field.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from zmsd.config.settings import Config


def sections_needing_restart(started_with: Config, new: Config) -> list[str]:
    """Return the sections in which a setting differs that a reload does not apply, in the order of the settings."""
    return [
        section.name
        for section in fields(Config)
        if _needs_restart(section.metadata, getattr(started_with, section.name), getattr(new, section.name))
    ]


def _needs_restart(metadata: Any, old: Any, new: Any) -> bool:
    """Return whether a value differs and it, or a field of it that differs, needs a restart."""
    if old == new:
        return False
    if metadata.get("restart"):
        return True
    return is_dataclass(old) and any(
        _needs_restart(field.metadata, getattr(old, field.name), getattr(new, field.name, None))
        for field in fields(old)
    )
