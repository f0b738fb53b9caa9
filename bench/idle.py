"""Idle: share of a core that zmsd and mongod take while nothing happens in 20 collections; beside mongod without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from bench.support import counter, report
from bench.support.counter import Follower
from bench.support.report import Figure
from bench.support.scene import Scene

COLLECTIONS = 20
_SETTLE = 2.0  # seconds


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    seconds = 5.0 if short else 60.0
    db = scene.fresh(COLLECTIONS)
    for scope in ("collection", "database"):
        time.sleep(_SETTLE)
        alone = share(scene.mongod_cpu, seconds / 2)
        with scene.zmsd(db, scope=scope) as zmsd:
            watermark, _, _ = counter.copy(zmsd.port)
            with Follower(zmsd.port, watermark):
                time.sleep(_SETTLE)
                ours, theirs = shares((zmsd.cpu, scene.mongod_cpu), seconds)
        yield report.value(f"idle, zmsd, scope {scope}", "%", [ours], at_most=2)
        yield report.value(f"idle, mongod, scope {scope}", "%", [theirs], beside=alone or None, at_most=2)


def share(used: Callable[[], float], seconds: float) -> float:
    return shares((used,), seconds)[0]


def shares(used: tuple[Callable[[], float], ...], seconds: float) -> list[float]:
    """Return the share of a core, in per cent."""
    before = [seconds_of() for seconds_of in used]
    time.sleep(seconds)
    return [100 * (seconds_of() - start) / seconds for seconds_of, start in zip(used, before, strict=True)]


if __name__ == "__main__":
    report.cli(measure)
