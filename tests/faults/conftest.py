"""Fixtures of the fault tests: a database under load, and the report at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.load import COLLECTIONS
from tests.faults.tally import LONG, Tally


@pytest.fixture
def tally(record_property: Any) -> Iterator[Tally]:
    """Return the counts of this test, which are printed after all tests."""
    counted = Tally()
    yield counted
    record_property("tally", counted.as_dict())


@pytest.fixture
def loaded(database: Any) -> Any:
    """Yield the test's database with the collections that the writers of ``load`` write."""
    for name in COLLECTIONS:
        database.create_collection(name)
    return database


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print one line per test: what it did, and what it found."""
    stats = terminalreporter.stats
    bad = {report.nodeid for outcome in ("failed", "error") for report in stats.get(outcome, ())}
    lines = []
    for report in stats.get("", []) + stats.get("error", []):  # Teardowns that passed are not counted.
        for name, value in getattr(report, "user_properties", ()):
            if name == "tally" and report.when == "teardown":
                test = report.nodeid.removeprefix("tests/faults/")
                lines.append((f"{test} FAILED" if report.nodeid in bad else test, value))
    if not lines:
        return
    terminalreporter.section(f"faults, {'long' if LONG else 'short'} versions")
    form = "{:>8} {:>7} {:>8} {:>8} {:>5} {:>6} {:>5} {:>6}  {}"
    names = ("seconds", "faults", "writes", "received", "lost", "twice", "torn", "other", "test")
    terminalreporter.line(form.format(*names))
    keys = ("survived", "writes", "transactions", "lost", "twice", "torn", "other")
    for test, value in lines:
        numbers = [value[key] for key in keys]
        terminalreporter.line(form.format(round(value["seconds"], 1), *numbers, test))
        if value["notes"]:
            terminalreporter.line(f"{'':>62}{value['notes']}")
    totals = [round(sum(value["seconds"] for _, value in lines), 1)]
    totals += [sum(value[key] for _, value in lines) for key in keys]
    terminalreporter.line(form.format(*totals, f"in all {len(lines)}"))
