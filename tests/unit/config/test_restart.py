"""Which settings need a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from zmsd.config.restart import changed_since_start, settings_needing_restart, write_started_with
from zmsd.config.settings import (
    Config,
    FeedConfig,
    LogConfig,
    MongodbConfig,
    NatsConfig,
    ServerConfig,
    WatermarksConfig,
)

BEFORE = Config()


@pytest.mark.parametrize(
    ("after", "names"),
    [
        (BEFORE, []),
        (replace(BEFORE, mongodb=MongodbConfig(uri="mongodb://other/x")), ["mongodb.uri"]),
        (replace(BEFORE, server=ServerConfig(port=1)), ["server.port"]),
        (replace(BEFORE, server=ServerConfig(host="::1")), ["server.host"]),
        (replace(BEFORE, server=ServerConfig(max_sessions=1, token=("t",))), []),
        (replace(BEFORE, log=LogConfig(level="debug")), []),
        (
            replace(BEFORE, feed=FeedConfig(heartbeat=5), watermarks=WatermarksConfig("nats-kv")),
            ["feed.heartbeat", "watermarks.storage"],
        ),
        (replace(BEFORE, nats=NatsConfig(bucket="other")), ["nats.bucket"]),
    ],
)
def test_names_of_settings_that_need_a_restart(after: Config, names: list[str]) -> None:
    assert settings_needing_restart(BEFORE, after) == names


def test_changes_since_the_start_are_named_without_the_values(tmp_path: Path) -> None:
    started = replace(BEFORE, mongodb=MongodbConfig(uri="mongodb://u:secret@host/x"))
    assert changed_since_start(tmp_path, started) is None
    write_started_with(tmp_path, started)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "secret" not in file.read_text()
    assert changed_since_start(tmp_path, started) == []
    changed = replace(started, mongodb=MongodbConfig(uri="mongodb://u:other@host/x"), feed=FeedConfig(catch_up=9))
    assert changed_since_start(tmp_path, changed) == ["mongodb.uri", "feed.catch_up"]


def test_changes_since_the_start_of_a_daemon_that_has_ended_are_unknown(tmp_path: Path) -> None:
    write_started_with(tmp_path, BEFORE)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace('"pid": ', '"pid": 999999'))
    assert changed_since_start(tmp_path, BEFORE) is None


def test_relative_path_to_the_same_file_needs_no_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_started_with(tmp_path, replace(BEFORE, watermarks=WatermarksConfig(path=tmp_path / "w.db")))
    assert changed_since_start(tmp_path, replace(BEFORE, watermarks=WatermarksConfig(path=Path("w.db")))) == []
