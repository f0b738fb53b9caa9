"""Memory of an initial sync: the largest resident memory of zmsd after a small one and after one ten times as large."""

from __future__ import annotations

from collections.abc import Iterator

from bench.support import counter, report
from bench.support.report import Figure
from bench.support.scene import Scene, documents, insert

_PART = 100_000


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    small, large = (50_000, 200_000) if short else (200_000, 2_000_000)
    db = scene.fresh()
    there = 0
    peaks = []
    for count in (small, large):
        while there < count:
            part = min(_PART, count - there)
            insert(db, documents(part))
            there += part
        with scene.zmsd(db) as zmsd:
            counter.copy(zmsd.port)
            peaks.append(zmsd.peak_mb())
        yield report.value(f"RSS, copy of {count:,} documents", "MB", peaks[-1:], at_most=90)
    yield report.ratio("RSS, the large copy by the small one", "MB", [(peaks[1], peaks[0])], at_most=1.05)


if __name__ == "__main__":
    report.cli(measure)
