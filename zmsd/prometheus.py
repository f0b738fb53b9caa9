"""Counters, histograms and callbacks, and their text for Prometheus.

The text format is https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4. A daemon has one
Registry, which is handed to the parts; there is no global registry. A number that several threads count is a Counter or
a Histogram, without labels. A callback reads every other metric, and every metric with labels, at each rendering.
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

Labels = tuple[str, ...]
"""The values of a metric's labels, in the order of their names."""
Reading = float | Mapping[Labels, float] | None
"""The result of a callback: a number, a number for each tuple of label values, or None if not known now."""


class Counter:
    """A number that only grows. Thread-safe."""

    # `self._value += n` reads, adds and writes: between these, another thread's addition can be lost (CPython 3.11
    # seldom switches there, other versions do). itertools.count() is atomic, but adds only 1. The lock is held for
    # three bytecodes. Code that counts single events in a tight loop adds once a batch, or keeps an attribute that
    # only its own thread writes and registers a callback that reads the attribute.

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: float = 0

    def inc(self, n: float = 1) -> None:
        """Add ``n``, which must not be negative (not checked: this is the hot path)."""
        with self._lock:
            self._value += n

    def value(self) -> float:
        """Return the current value."""
        return self._value

    def samples(self) -> Iterator[tuple[Labels, Sample]]:
        """Yield the line of the counter."""
        yield (), Sample("", None, self._value)


class Histogram:
    """Counts of observations at or below each of several bounds. Thread-safe."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._lock = threading.Lock()
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count an observation, in the unit of the bounds."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value

    def value(self) -> Distribution:
        """Return a consistent copy of the counts."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        return Distribution(tuple(zip((*self._bounds, math.inf), accumulate(counts), strict=True)), total, sum(counts))

    def samples(self) -> Iterator[tuple[Labels, Sample]]:
        """Yield the lines of the buckets, the sum and the count."""
        held = self.value()
        for bound, cumulated in held.buckets:
            yield (), Sample("_bucket", _number(float(bound)), cumulated)
        yield (), Sample("_sum", None, held.sum)
        yield (), Sample("_count", None, held.count)


@dataclass(frozen=True, slots=True)
class Distribution:
    """The contents of a Histogram."""

    buckets: tuple[tuple[float, int], ...]
    """(bound, observations at or below the bound); the last bound is infinity."""
    sum: float
    count: int


class Sample(NamedTuple):
    """One line of a metric."""

    suffix: str
    """Appended to the name of the metric."""
    le: str | None
    """Upper bound of a bucket, as text; None for other lines."""
    value: float


class Registry:
    """All metrics of a daemon. Thread-safe. Adding a metric with an invalid or repeated name raises ValueError."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: dict[str, _Metric] = {}

    def counter(self, name: str, help: str) -> Counter:
        """Return a new counter.

        :param name: must end in ``_total``
        """
        made = Counter()
        self._add("counter", name, help, (), made.samples)
        return made

    def histogram(self, name: str, help: str, bounds: Sequence[float]) -> Histogram:
        """Return a new histogram.

        :param bounds: upper bounds of the buckets, finite and rising; infinity is added
        """
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
        """Add a metric that is read at each rendering, in the thread that renders.

        :param read: returns the value; an exception in it is logged, and the metric is left out of this rendering
        :param labels: names of the labels; ``read`` then returns a number for each tuple of their values
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
        """Return the text of ``GET /metrics``, of type CONTENT_TYPE."""
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
            raise ValueError(f"not a valid name for a {kind}: {name!r}")
        for label in labels:
            if not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", label):
                raise ValueError(f"{name}: not a valid name for a label: {label!r}")
        with self._lock:
            if name in self._metrics:
                raise ValueError(f"metric {name} exists already")
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
        except Exception as error:  # of a callback: render the other metrics nevertheless
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
