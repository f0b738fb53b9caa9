"""The lag metrics of zero-cache, which it computes from zmsd's lag reports."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mongod import ReplicaSet
from tests.support.otlp import MetricsReceiver
from tests.support.types import Serve
from tests.support.wait import wait_until
from tests.support.writer import mappings_of, schema_of
from tests.support.zero import ZeroCache

pytestmark = pytest.mark.skipif(os.environ.get("ZMSD_TEST_LONG") != "1", reason="ZMSD_TEST_LONG=1 runs it")

NAMES = [f"zero.replication.{name}" for name in ("upstream_lag", "total_lag", "upstream_clock_skew")]
STALL_MS = 8_000


def test_lag_metrics_of_an_idle_database_are_small_and_grow_while_mongodb_stalls(
    serve: Serve, zero_cache: Callable[..., ZeroCache], tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    replicas = stack.enter_context(ReplicaSet(tmp_path / "set"))
    metrics = stack.enter_context(MetricsReceiver())
    settings = {"feed": {"lag_report": 1}}
    process = serve(schema_of(["note"]), mappings_of(["note"]), uri=replicas.uri("test"), settings=settings)
    every = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_METRIC_EXPORT_TIMEOUT": "1000"}
    zero_cache(process, env={"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": metrics.url, **every})

    def lags() -> list[tuple[float, float, float]]:
        """Upstream lag, total lag and clock skew, in ms, each time that they changed."""
        found: list[tuple[float, float, float]] = []
        for export in metrics.exports(NAMES[0]):
            upstream, total, skew = (export[name] for name in NAMES)
            if found[-1:] != [(upstream, total, skew)]:
                found.append((upstream, total, skew))
        return found

    # Nothing is written: the reports come, and go on.
    wait_until(lambda: len(lags()) >= 3, "reports of an idle database", 60)
    idle = lags()
    for upstream, total, skew in idle:
        assert 0 <= upstream <= total
        # Both run on one clock: the database's time is between the two of zmsd.
        assert abs(skew) <= upstream / 2 + 1
    wait_until(lambda: lags()[-1][1] < STALL_MS / 2, "a report with a small lag", 60)

    mongod = replicas.primary()
    mongod.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: lags()[-1][0] > STALL_MS, "the lag grows while MongoDB does not answer", 60)
    finally:
        mongod.signal(signal.SIGCONT)
    wait_until(lambda: lags()[-1][1] < STALL_MS / 2, "the lag is small again", 60)
