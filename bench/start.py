"""Start: seconds from the start of the process to /readyz 200 with an empty store, and of the import of zmsd.cli."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator

from bench.support import report
from bench.support.report import Figure
from bench.support.scene import Scene, Zmsd
from tests.support.daemon import ROOT

_IMPORT = "import time; begun = time.perf_counter(); import {}; print(time.perf_counter() - begun)"
_PAUSE = 0.002  # seconds


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    rounds = 5 if short else 15
    db = scene.fresh(5)
    starts, imports, pymongos = [], [], []
    for _ in range(rounds):
        process = scene.make_zmsd(db)
        with process:
            starts.append(_start(process))
        imports.append(_import("zmsd.cli"))
        pymongos.append(_import("pymongo"))
    yield report.value("start to ready", "s", starts, at_most=0.6)
    yield report.value("import", "s", imports, at_most=0.25)
    yield report.ratio("import, beside that of pymongo", "s", list(zip(imports, pymongos, strict=True)))


def _start(process: Zmsd) -> float:
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


def _import(module: str) -> float:
    command = [sys.executable, "-c", _IMPORT.format(module)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    report.cli(measure)
