"""Figures: measured in rounds, each beside its yardstick of the same round; shown as a table, written as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pymongo

from bench.support.scene import Scene


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. The target is of the ratio where there is one, else of the value."""

    name: str
    unit: str
    value: float
    beside: float | None = None
    """The yardstick, in the same unit."""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    rounds: Sequence[Any] = ()
    """What the value is the median of."""


Measure = Callable[[Scene, bool], Iterator[Figure]]
"""A benchmark: (scene, whether it is the short set) -> its figures, as they come."""


def value(
    name: str,
    unit: str,
    rounds: Sequence[float],
    *,
    beside: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Figure:
    """The median of rounds, with a target of its own."""
    middle = median(rounds)
    ratio = middle / beside if beside else None
    return Figure(name, unit, middle, beside, ratio, *_target("", middle, at_least, at_most), rounds)


def ratio(
    name: str,
    unit: str,
    rounds: Sequence[tuple[float, float]],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Figure:
    """Rounds of (ours, yardstick); the target is of the median of their ratios."""
    ours, theirs = (median(column) for column in zip(*rounds, strict=True))
    if not all(other for _, other in rounds):
        return Figure(name, unit, ours, theirs, rounds=rounds)
    middle = median(mine / other for mine, other in rounds)
    return Figure(name, unit, ours, theirs, middle, *_target("ratio ", middle, at_least, at_most), rounds)


def excess(name: str, unit: str, ours: float, theirs: float, at_most: float) -> Figure:
    """The target is how much the yardstick may be exceeded by."""
    return Figure(name, unit, ours, theirs, ours / theirs, f"+ ≤ {at_most:g} {unit}", ours - theirs <= at_most)


def percentile(times: Sequence[float], share: float) -> float:
    return sorted(times)[min(int(len(times) * share), len(times) - 1)]


def cli(measure: Measure) -> None:
    """``python -m bench.NAME [--short] [--json FILE]``."""
    run({measure.__module__.rpartition(".")[2]: measure}, sys.modules[measure.__module__].__doc__ or "")


def run(
    measures: Mapping[str, Measure], text: str, *, short: bool = False, extra: Mapping[str, Measure] | None = None
) -> None:
    """Measure what the command line asks for.

    :param text: the help
    :param short: what is done without an option
    :param extra: measures that are run only if they are named
    """
    usual, measures = list(measures), {**measures, **(extra or {})}
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if len(measures) > 1:
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(measures)}")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", default=short, help="less of everything")
    size.add_argument("--full", action="store_false", dest="short", help="the sizes that the targets speak of")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args()
    names = getattr(options, "names", None) or usual
    if unknown := set(names) - measures.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: what was started is ended
    figures: list[Figure] = []
    started = time.monotonic()
    where: dict[str, Any] = {}
    try:
        with Scene.open() as scene:
            where = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "short": options.short, **machine(scene)}
            print("  ".join(f"{key} {item}" for key, item in where.items()), flush=True)
            print(_line("", "zmsd", "yardstick", "ratio", "target", ""), flush=True)
            for name in names:
                for figure in measures[name](scene, options.short):
                    figures.append(figure)
                    print(_row(figure), flush=True)
        print(f"in {time.monotonic() - started:.0f} s")
    finally:
        if options.json:
            document = {**where, "figures": [asdict(figure) for figure in figures]}
            options.json.write_text(json.dumps(document, indent=1) + "\n")


def machine(scene: Scene) -> dict[str, Any]:
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "pymongo": pymongo.version,
        "mongod": scene.client.server_info()["version"],
    }


def _lines(path: str) -> Iterable[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return ()


def _target(of: str, value: float, at_least: float | None, at_most: float | None) -> tuple[str, bool | None]:
    if at_least is not None:
        return f"{of}≥ {at_least:,g}", value >= at_least
    if at_most is not None:
        return f"{of}≤ {at_most:,g}", value <= at_most
    return "", None


def _row(figure: Figure) -> str:
    met = {None: "", True: "met", False: "MISSED"}[figure.met]
    beside = "" if figure.beside is None else _number(figure.beside)
    share = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    return _line(figure.name, f"{_number(figure.value)} {figure.unit}", beside, share, figure.target, met)


def _number(number: float) -> str:
    digits = 0 if abs(number) >= 1000 else 1 if abs(number) >= 10 else 2
    return f"{number:,.{digits}f}"


def _line(*cells: str) -> str:
    widths = (46, -18, -12, -7, 16, 6)
    return " ".join(f"{c:<{w}}" if w > 0 else f"{c:>{-w}}" for c, w in zip(cells, widths, strict=True)).rstrip()
