"""The report of ``zmsd verify``: lines for people, JSON for programs, metrics for node_exporter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from zmsd.errors import ZmsdError, reason_of
from zmsd.prometheus import Registry
from zmsd.verify.comparison import Difference, TableResult

KINDS = ("missing", "extra", "different")


class Summary(NamedTuple):
    """A run of the command, for the metrics."""

    database: str
    code: int
    """Exit code: 0 equal, 1 different, 2 not compared."""
    ended: float
    """Seconds since the epoch."""
    seconds: float
    results: Sequence[TableResult] = ()


def lines_of(result: TableResult, *, show_values: bool) -> Iterator[str]:
    """Yield the line of a table, and a line for each of its first differences.

    :param show_values: whether to show the values of the columns that differ
    """
    numbers = f"{result.rows:,} rows, {result.equal:,} equal"
    if result.is_equal:
        numbers += ", no difference"
    for kind in KINDS:
        if count := getattr(result, kind):
            numbers += f", {count:,} {kind}"
    if result.late:
        numbers += f", {result.late:,} newer than the comparison"
    yield f"{result.table}: {numbers} at {result.watermark} in {result.seconds:.1f} s"
    for one in result.differences:
        yield f"  {one.kind} {one.key}" + (f": {', '.join(one.columns)}" if one.columns else "")
        for name, actual, expected in values_of(one) if show_values else ():
            yield f"    {name}: {_text(actual)} in the replica, {_text(expected)} in MongoDB"
    for kind in KINDS:
        shown = sum(one.kind == kind for one in result.differences)
        if shown < getattr(result, kind):
            yield f"  and {getattr(result, kind) - shown:,} more {kind}"


def values_of(difference: Difference) -> Iterator[tuple[str, Any, Any]]:
    """Yield (column, value in the replica, value from MongoDB) for each column that differs."""
    actual, expected = (json.loads(text) if text else {} for text in (difference.actual, difference.expected))
    for name in difference.columns or (expected or actual):
        yield name, actual.get(name), expected.get(name)


def as_json(code: int, results: Sequence[TableResult], *, show_values: bool) -> dict[str, Any]:
    """Return the report for programs."""
    tables = [asdict(result) | {"differences": []} for result in results]
    for table, result in zip(tables, results, strict=True):
        for one in result.differences:
            shown = {"kind": one.kind, "key": json.loads(one.key), "columns": list(one.columns)}
            if show_values:
                shown["values"] = {name: {"replica": a, "mongodb": e} for name, a, e in values_of(one)}
            table["differences"].append(shown)
    return {"equal": code == 0, "tables": tables}


def register(registry: Registry, summary: Summary) -> None:
    """Add the metrics of a run to a registry."""
    database, results = summary.database, summary.results

    def gauge(name: str, help: str, value: float) -> None:
        registry.callback("gauge", name, help, lambda: {(database,): value}, ("database",))

    gauge(
        "zmsd_verify_result",
        "0 if the last zmsd verify found no difference, 1 if it found some, 2 if it failed",
        summary.code,
    )
    gauge("zmsd_verify_timestamp_seconds", "When the last zmsd verify ended, since the epoch", summary.ended)
    gauge("zmsd_verify_duration_seconds", "Duration of the last zmsd verify", summary.seconds)
    registry.callback(
        "gauge",
        "zmsd_verify_rows",
        "Rows that MongoDB's documents gave at the last zmsd verify",
        lambda: {(database, one.table): one.rows for one in results},
        ("database", "table"),
    )
    registry.callback(
        "gauge",
        "zmsd_verify_differences",
        "Rows that differed at the last zmsd verify, by kind: missing, extra, different",
        lambda: {(database, one.table, kind): getattr(one, kind) for one in results for kind in KINDS},
        ("database", "table", "kind"),
    )


def write_metrics(file: Path, summary: Summary) -> None:
    """Write a file for node_exporter's textfile collector, all of it at once. Raises ZmsdError."""
    registry = Registry()
    register(registry, summary)
    new = file.with_name(f".{file.name}.new")
    try:
        new.write_text(registry.render())
        new.chmod(0o644)
        new.replace(file)
    except OSError as error:
        raise ZmsdError(f"cannot write {file}: {reason_of(error)} (--metrics)") from error


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
