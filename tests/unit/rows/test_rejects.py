"""Rejected rows: counted by table and reason, few of them logged."""

from __future__ import annotations

import pytest

from zmsd.rows import rejects
from zmsd.rows.rejects import RejectCount, Rejects


def test_cases_are_counted_and_the_first_ones_logged(caplog: pytest.LogCaptureFixture) -> None:
    found = Rejects()
    for number in range(rejects._LOGGED_CASES + 3):
        found.add("user", "no key", number, "row not sent")
    assert found.counts() == {("user", "no key"): rejects._LOGGED_CASES + 3}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == rejects._LOGGED_CASES
    assert [line for line in lines if "only counted" in line] == lines[-1:]


def test_newest_cases_are_kept() -> None:
    found = Rejects()
    for number in range(rejects._KEPT_CASES + 1):
        found.add("user", "no key", number, "row not sent")
    assert [case.id for case in found.newest()] == [str(number) for number in range(1, rejects._KEPT_CASES + 1)]


def test_further_reasons_of_a_table_are_counted_as_one() -> None:
    found = Rejects()
    for number in range(rejects._MAX_REASONS + 2):
        found.add("user", f"reason {number}", "x", "row not sent")
    found.add("room", "no key", "x", "row not sent")
    counts = found.counts()
    assert counts["user", "other reasons"] == 2
    assert counts["room", "no key"] == 1
    assert len(counts) == rejects._MAX_REASONS + 2


def test_long_id_is_cut() -> None:
    found = Rejects()
    found.add("user", "no key", "x" * 1000, "row not sent")
    assert found.newest()[0].id == "x" * 200


def test_totals_have_the_effect_and_the_column_of_the_newest_case() -> None:
    found = Rejects()
    found.add("user", "array in string column name", 1, "value sent as null", "name")
    found.add("user", "no primary key", 2, "row not sent", "id")
    found.add("user", "no primary key", 3, "row not sent", "shop")
    for number in range(rejects._MAX_REASONS):
        found.add("user", f"reason {number}", 4, "row not sent", "id")
    totals = {total.reason: total for total in found.totals()}
    when = [case.when for case in found.newest()]
    array = "array in string column name"
    assert totals[array] == RejectCount("user", array, 1, "value sent as null", "name", "1", when[0])
    assert totals["no primary key"] == RejectCount("user", "no primary key", 2, "row not sent", "shop", "3", when[2])
    assert totals["other reasons"] == RejectCount("user", "other reasons", 2, None, None, "4", when[-1])
    assert [(total.table, total.reason) for total in found.totals()] == sorted(found.counts())
