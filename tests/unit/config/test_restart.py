"""Which settings need a restart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zmsd.config.restart import sections_needing_restart
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
    ("after", "sections"),
    [
        (BEFORE, []),
        (replace(BEFORE, mongodb=MongodbConfig(uri="mongodb://other/x")), ["mongodb"]),
        (replace(BEFORE, server=ServerConfig(port=1)), ["server"]),
        (replace(BEFORE, server=ServerConfig(host="::1")), ["server"]),
        (replace(BEFORE, server=ServerConfig(max_sessions=1, token=("t",))), []),
        (replace(BEFORE, log=LogConfig(level="debug")), []),
        (replace(BEFORE, feed=FeedConfig(heartbeat=5), watermarks=WatermarksConfig("nats-kv")), ["feed", "watermarks"]),
        (replace(BEFORE, nats=NatsConfig(bucket="other")), ["nats"]),
    ],
)
def test_sections_named_when_a_setting_needs_a_restart(after: Config, sections: list[str]) -> None:
    assert sections_needing_restart(BEFORE, after) == sections
