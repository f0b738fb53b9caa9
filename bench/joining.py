"""feed.join_delay: zmsd with its default beside zmsd with 0 (yardstick), each with the real zero-cache.

Rows are inserted singly by one thread, which waits for each, so that zero-cache could get a transaction for each row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.support import report
from bench.support.report import Figure
from bench.support.scene import Scene
from bench.zero import Bench, Measured, figures


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    """The rounds take turns, every second one in the other order."""
    pairs: list[tuple[Measured, Measured]] = []
    with contextlib.ExitStack() as stack:
        bench = Bench(scene, stack, short=short)
        for number in range(3 if short else 6):
            if number % 2:
                theirs = bench.zmsd(writers=1, join_delay=0)
                ours = bench.zmsd(writers=1)
            else:
                ours = bench.zmsd(writers=1)
                theirs = bench.zmsd(writers=1, join_delay=0)
            pairs.append((ours, theirs))
    yield from figures(pairs)


if __name__ == "__main__":
    report.cli(measure)
