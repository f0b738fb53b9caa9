"""Root's ``zmsd store`` leaves files that the daemon's user can open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zmsd.commands.store import _opened
from zmsd.config.settings import Config, MongodbConfig, WatermarksConfig


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_store_made_by_root_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 61234, 61234)
    file = tmp_path / "watermarks.db"
    settings = Config(mongodb=MongodbConfig(database="db"), watermarks=WatermarksConfig(path=file))
    with _opened(settings, "sqlite", make=True):
        assert {path.stat().st_uid for path in tmp_path.iterdir()} == {61234}, "also those that sqlite makes"
    assert file.stat().st_gid == 61234
