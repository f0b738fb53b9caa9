"""Initial sync: rows/s to a client that only counts, beside plain find() of the same documents in the same round."""

from __future__ import annotations

from collections.abc import Iterator

from bench.support import bare, counter, report
from bench.support.report import Figure
from bench.support.scene import Scene, documents, insert


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    rounds, count = (3, 100_000) if short else (7, 200_000)
    db = scene.fresh()
    insert(db, documents(count))
    rates, cpus = [], []
    with scene.zmsd(db) as zmsd:
        for _ in range(rounds):
            plain, plain_cpu = bare.find(db["c0"])
            before = zmsd.cpu()
            _, seconds, messages = counter.copy(zmsd.port)
            assert messages > count, f"{messages} messages for {count} documents"
            rates.append((count / seconds, count / plain))
            cpus.append(((zmsd.cpu() - before) / count * 1e6, plain_cpu / count * 1e6))
    yield report.ratio("copy", "rows/s", rates, at_least=0.5)
    yield report.ratio("copy, processor time of the process", "µs/row", cpus)


if __name__ == "__main__":
    report.cli(measure)
