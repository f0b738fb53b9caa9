"""Foreign writes: seconds from the start of the process to /readyz 200, and until a client that was away has a new
change, after many inserts into another database of the same MongoDB, while the published one was quiet.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from bench.start import start_seconds
from bench.support import counter, report
from bench.support.counter import Live
from bench.support.report import Figure
from bench.support.scene import Scene, Zmsd, document

_BATCH = 5000


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    count = 100_000 if short else 1_000_000
    db = scene.fresh(1)
    zmsd = scene.make_zmsd(db)
    with zmsd:
        zmsd.start()
        watermark, _, _ = counter.copy(zmsd.port)
        with Live(zmsd.port, watermark) as live:
            db.c0.insert_one(document(0))
            live.arrived(1)
        assert zmsd.stop() == 0  # the change is in the store as the newest checkpoint
        before = [_restart_seconds(zmsd) for _ in range(3)]
        foreign = scene.client["bench_foreign"].c
        for start in range(0, count, _BATCH):
            foreign.insert_many([{"n": number} for number in range(start, start + _BATCH)], ordered=False)
        after = [_restart_seconds(zmsd) for _ in range(3)]
        zmsd.start()
        started = time.monotonic()
        with Live(zmsd.port, watermark) as live:
            live.arrived(1)
            db.c0.insert_one(document(1))
            live.arrived(1)
        back = time.monotonic() - started
    scene.client.drop_database("bench_foreign")
    yield report.value(f"ready after {count:,} foreign inserts", "s", after, beside=median(before), at_most=1)
    yield report.value("a client that was away has a new change", "s", [back])


def _restart_seconds(zmsd: Zmsd) -> float:
    """Return the seconds from the start to /readyz 200. The process is ended by ``kill -9``."""
    seconds = start_seconds(zmsd)
    zmsd.kill()
    return seconds


if __name__ == "__main__":
    report.cli(measure)
