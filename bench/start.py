"""Start: seconds from the start of the process to /readyz 200 with an empty store, and of the import of zmsd.cli; with
compiled modules, as after an installation.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from statistics import median

from bench.support import report
from bench.support.report import Figure
from bench.support.scene import Scene, Zmsd
from tests.support.daemon import ROOT

_IMPORT = "import time; begun = time.perf_counter(); import {}; print(time.perf_counter() - begun)"
_PAUSE = 0.002  # seconds


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    rounds = 3 if short else 15
    db = scene.fresh(5)
    starts, imports, pymongos = [], [], []
    with tempfile.TemporaryDirectory(prefix="zmsd-bench-") as compiled:
        environment = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        _import("zmsd.cli", environment)
        for _ in range(rounds):
            zmsd = scene.make_zmsd(db)
            zmsd.environment |= environment
            with zmsd:
                starts.append(start_seconds(zmsd))
            imports.append(_import("zmsd.cli", environment))
            pymongos.append(_import("pymongo", environment))
    yield report.value("start to ready", "s", starts, at_most=0.6)
    yield report.value("import", "s", imports, beside=median(pymongos), at_most=0.25)


def start_seconds(process: Zmsd) -> float:
    """Return the seconds from the start of the process to /readyz 200."""
    started = time.perf_counter()
    process.launch()
    while not _ready(process.port):
        assert process.running(), process.stderr()
        assert time.perf_counter() - started < 30, process.stderr()
        time.sleep(_PAUSE)
    return time.perf_counter() - started


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _import(module: str, environment: Mapping[str, str]) -> float:
    command = [sys.executable, "-c", _IMPORT.format(module)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


if __name__ == "__main__":
    report.cli(measure)
