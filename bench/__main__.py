"""``python -m bench``: measure what zmsd promises about speed. The short set takes less than 3 minutes.

bench/README.rst explains each figure. ``zero``, ``joining`` and ``unions`` are run if they are named;
``bench.stub`` and ``bench.rows`` are commands of their own.
"""

from __future__ import annotations

from types import ModuleType

from bench import (
    catchup,
    copy,
    fanout,
    foreign,
    idle,
    joining,
    latency,
    memory,
    scope,
    start,
    throughput,
    transactions,
    unions,
    zero,
)
from bench.support import report
from bench.support.report import Measure

_MODULES = (start, foreign, idle, copy, memory, latency, transactions, throughput, fanout, catchup, scope)
_EXTRA = (zero, joining, unions)


def _by_name(*modules: ModuleType) -> dict[str, Measure]:
    return {module.__name__.rpartition(".")[2]: module.measure for module in modules}


if __name__ == "__main__":
    report.run(_by_name(*_MODULES), __doc__ or "", short=True, extra=_by_name(*_EXTRA))
