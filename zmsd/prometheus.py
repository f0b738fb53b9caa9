"""Counters, histograms and callbacks, and their text for Prometheus (format 0.0.4).

A daemon makes one Registry and hands it down; there is no global one. What several threads count is a Counter or a
Histogram, without labels. Everything else, and everything with labels, is read by a callback at each rendering.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

log = logging.getLogger(__name__)

Labels = tuple[str, ...]  # the values of a metric's labels, in the order of their names
Reading = float | Mapping[Labels, float] | None  # what a callback returns; None: not known now


class Counter:
    """A number that only grows; any thread may add to it."""

    # `self._value += n` reads, adds and writes: between these, another thread's addition can be lost (CPython 3.11
    # seldom switches there, other versions do). itertools.count() is atomic, but counts only ones. So a lock: about
    # 0.2 µs, and no wait worth naming, for it is held for three bytecodes. Who counts single events in a tight loop
    # adds once a batch, or keeps an attribute that only its own thread writes and gives Registry.callback() a reader.

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: float = 0

    def inc(self, n: float = 1) -> None:
        """Add ``n``, which must not be negative (not checked: this is the hot path)."""
        with self._lock:
            self._value += n

    def value(self) -> float:
        """What it stands at."""
        return self._value

    def samples(self) -> Iterator[tuple[Labels, Sample]]:
        yield (), Sample("", None, self._value)


class Histogram:
    """How many observations fell at or below each of some bounds; any thread may observe."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._lock = threading.Lock()
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``."""
        place = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[place] += 1
            self._sum += value

    def value(self) -> Distribution:
        """All of it, at one moment."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        return Distribution(tuple(zip((*self._bounds, math.inf), accumulate(counts), strict=True)), total, sum(counts))

    def samples(self) -> Iterator[tuple[Labels, Sample]]:
        held = self.value()
        for bound, cumulated in held.buckets:
            yield (), Sample("_bucket", _number(float(bound)), cumulated)
        yield (), Sample("_sum", None, held.sum)
        yield (), Sample("_count", None, held.count)


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a Histogram holds: (bound, observations at or below it), the last bound being infinity; sum; count."""

    buckets: tuple[tuple[float, int], ...]
    sum: float
    count: int


class Sample(NamedTuple):
    """One line of a metric: what is added to the metric's name, the ``le`` label if any, the number."""

    suffix: str
    le: str | None
    value: float


class Registry:
    """All metrics of a daemon. Names and help are checked when they are added: ValueError."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: dict[str, _Metric] = {}

    def counter(self, name: str, help: str) -> Counter:
        """Return a new counter; its name ends in ``_total``."""
        made = Counter()
        self._add("counter", name, help, (), made.samples)
        return made

    def histogram(self, name: str, help: str, bounds: Sequence[float]) -> Histogram:
        """Return a new histogram with these bounds: rising, finite; infinity is added."""
        if list(bounds) != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
            raise ValueError(f"{name}: bounds must be finite and rise, got {bounds}")
        made = Histogram(bounds)
        self._add("histogram", name, help, (), made.samples)
        return made

    def callback(
        self,
        kind: Literal["counter", "gauge"],
        name: str,
        help: str,
        read: Callable[[], Reading],
        labels: Sequence[str] = (),
    ) -> None:
        """A metric that ``read`` gives at each rendering, in the thread that renders.

        It returns a number, or with ``labels`` a number for each tuple of their values, or None when it is not known.
        What it raises is logged and leaves this metric out.
        """

        def samples() -> Iterator[tuple[Labels, Sample]]:
            reading = read()
            if reading is None:
                return
            for key, value in reading.items() if isinstance(reading, Mapping) else (((), reading),):
                if len(key) != len(labels):
                    raise ValueError(f"labels are {tuple(labels)}, got {key}")
                yield key, Sample("", None, value)

        self._add(kind, name, help, labels, samples)

    def render(self) -> str:
        """The text of ``GET /metrics``, of type CONTENT_TYPE."""
        with self._lock:
            metrics = list(self._metrics.values())
        return "".join(f"{line}\n" for metric in metrics for line in metric.lines())

    def _add(
        self,
        kind: str,
        name: str,
        help: str,
        labels: Sequence[str],
        samples: Callable[[], Iterator[tuple[Labels, Sample]]],
    ) -> None:
        if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name) or (kind == "counter") != name.endswith("_total"):
            raise ValueError(f"{name!r} is no name for a {kind}")
        for label in labels:
            if not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", label):
                raise ValueError(f"{name}: {label!r} is no name for a label")
        with self._lock:
            if name in self._metrics:
                raise ValueError(f"{name} exists")
            self._metrics[name] = _Metric(kind, name, help, tuple(labels), samples)


class _Metric(NamedTuple):
    kind: str
    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[], Iterator[tuple[Labels, Sample]]]

    def lines(self) -> list[str]:
        text = self.help.replace("\\", r"\\").replace("\n", r"\n")
        lines = [f"# HELP {self.name} {text}", f"# TYPE {self.name} {self.kind}"]
        try:
            for key, (suffix, le, value) in self.samples():
                lines.append(f"{self.name}{suffix}{self._labels(key, le)} {_number(value)}")
        except Exception as error:  # of a callback; the other metrics are the more needed then
            log.warning("metric cannot be read metric=%s error=%r", self.name, error)
            return []
        return lines

    def _labels(self, values: Labels, le: str | None) -> str:
        pairs = [f'{name}="{_escape(value)}"' for name, value in zip(self.labels, values, strict=True)]
        if le is not None:
            pairs.append(f'le="{le}"')
        return "{" + ",".join(pairs) + "}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value) if isinstance(value, float) else str(int(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
