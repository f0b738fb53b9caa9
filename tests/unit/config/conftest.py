"""Fixtures of the tests of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from zmsd.config import settings as config
from zmsd.config.settings import Config
from zmsd.errors import ConfigError

LEAST = {"mongodb": {"uri": "mongodb://127.0.0.1/db"}, "schema": {"file": "schema.json"}}
"""The settings that are required."""

Load = Callable[..., Config]


@pytest.fixture(autouse=True)
def default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the default file, which is not the machine's."""
    file = tmp_path / "default" / "zmsd.yaml"
    monkeypatch.setattr(config, "DEFAULT_FILE", file)
    return file


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return ``load(server={…})``, which loads a file of the minimal settings with these over them."""

    def load(text: str | None = None, /, environ: Mapping[str, str] | None = None, **sections: Any) -> Config:
        file = tmp_path / "zmsd.yaml"
        file.write_text(yaml.safe_dump({**LEAST, **sections}) if text is None else text)
        return config.load(file, environ or {})

    return load


@pytest.fixture
def faults_of(load: Load) -> Callable[..., list[str]]:
    """Return the errors without the file's name; if the settings were given as text, also without line and column."""

    def faults_of(*args: Any, positions: bool = False, **options: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(*args, **options)
        shown = [f"{issue.line}:{issue.column}: " if positions and issue.line else "" for issue in caught.value.issues]
        keys = [f"{issue.key}: {issue.reason}" if issue.key else issue.reason for issue in caught.value.issues]
        return [key_path + key for key_path, key in zip(shown, keys, strict=True)]

    return faults_of
