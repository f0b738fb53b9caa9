"""``python -m bench``: measure what zmsd promises about speed. The short set takes less than 3 minutes.

bench/README.rst explains each figure. ``bench.stub``, ``bench.rows`` and ``bench.unions`` are run separately.
"""

from __future__ import annotations

from bench import catchup, copy, fanout, foreign, idle, latency, memory, scope, start, throughput, transactions
from bench.support import report

_MODULES = (start, foreign, idle, copy, memory, latency, transactions, throughput, fanout, catchup, scope)

if __name__ == "__main__":
    measures = {module.__name__.rpartition(".")[2]: module.measure for module in _MODULES}
    report.run(measures, __doc__ or "", short=True)
