"""Fan-out: processor time of zmsd for the same changes with 1, 4 and 16 sessions. Encoding happens once, so all that
may come on top of twice the time of one session is the writing to the sockets, which is measured beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median

from bench.support import bare, counter, report
from bench.support.counter import Follower
from bench.support.drain import drain
from bench.support.report import Figure
from bench.support.scene import Scene, documents, insert

COLLECTIONS = 5
SESSIONS = (1, 4, 16)


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    rounds, count = (1, 20_000) if short else (5, 50_000)
    db = scene.fresh(COLLECTIONS)
    used: dict[int, list[float]] = {sessions: [] for sessions in SESSIONS}
    writes: list[float] = []
    with scene.zmsd(db) as zmsd:
        watermark, _, _ = counter.copy(zmsd.port)
        for _ in range(rounds):
            for sessions in SESSIONS:
                docs = documents(count)
                with Follower(zmsd.port, watermark, sessions) as follower:
                    drained = drain(scene, zmsd, follower, count, partial(insert, db, docs, COLLECTIONS))
                got = drained.got
                watermark = got.watermark
                used[sessions].append(drained.zmsd)
            chunk = max(1, got.bytes // got.commits)
            writes.append(bare.socket_writes(got.bytes, chunk, SESSIONS[-1]) / count * 1e6)
    one = median(used[1])
    for sessions in SESSIONS[:-1]:
        yield report.value(f"{sessions} sessions, processor time", "µs/change", used[sessions], beside=one)
    most = 2 * one + median(writes)
    yield report.value("16 sessions, by 2 × one + socket writes", "µs/change", used[16], beside=most, at_most=most)


if __name__ == "__main__":
    report.cli(measure)
