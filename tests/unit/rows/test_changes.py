from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from zmsd.rows.changes import RowChange, between, between_many
from zmsd.rows.plain import Row

keys = st.sampled_from(["k1", "k2", "k3"])
rows = st.builds(lambda key, value: (key, f"{key}={value}"), keys, st.integers(0, 2))


def applied(table: dict[str, str], changes: Iterable[RowChange]) -> dict[str, str]:
    """Apply changes as zero-cache does: an insert replaces, an update of a missing row inserts."""
    table = dict(table)
    for tag, key, new in changes:
        if key is not None:
            table.pop(key, None)
        if tag == "delete":
            assert key is not None
            assert new is None
        else:
            assert new is not None
            assert tag == "update" or key is None
            table[new.partition("=")[0]] = new
    return table


def table_of(rows: Iterable[Row | None]) -> dict[str, str]:
    return dict(row for row in rows if row is not None)


@given(st.none() | rows, st.none() | rows)
def test_change_turns_the_old_row_into_the_new_row(before: Row | None, after: Row | None) -> None:
    change = between(before, after)
    assert applied(table_of([before]), [change] if change else []) == table_of([after])
    assert (change is None) == (before == after), "equal rows: nothing"


def test_each_pair_of_rows_makes_its_change() -> None:
    old, new, moved = ("1", "1=a"), ("1", "1=b"), ("2", "2=b")
    assert between(None, None) is None
    assert between(None, new) == ("insert", None, "1=b")
    assert between(old, None) == ("delete", "1", None)
    assert between(old, new) == ("update", None, "1=b")
    assert between(old, moved) == ("update", "1", "2=b"), "the old key, or the old row stays"
    assert between(new, ("1", "1=b")) is None


@given(st.lists(rows, max_size=4), st.lists(rows, max_size=4))
def test_changes_turn_old_rows_into_new_rows(before: list[Row], after: list[Row]) -> None:
    changes = list(between_many(before, after))
    assert applied(table_of(before), changes) == table_of(after)
    touched = {change.key or str(change.new).partition("=")[0] for change in changes}
    assert len(touched) == len(changes), "a row changes once"
    assert not touched - dict(before).keys() - dict(after).keys()


@given(st.lists(rows, max_size=4))
def test_equal_rows_make_no_change(same: list[Row]) -> None:
    assert not list(between_many(same, list(same)))
