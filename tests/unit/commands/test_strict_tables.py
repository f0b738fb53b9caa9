"""The tables of a strict replica: what zero-cache would not survive is a violation."""

from __future__ import annotations

from typing import Any

import pytest

from zmsd.commands.strict_tables import Shapes, TableShape
from zmsd.errors import Violation

COLUMNS = {
    "id": {"pos": 1, "dataType": "text", "notNull": True},
    "n": {"pos": 2, "dataType": "double precision"},
    "b": {"pos": 3, "dataType": "boolean"},
    "j": {"pos": 4, "dataType": "json"},
    "i": {"pos": 5, "dataType": "int8"},
}
TABLE = {"schema": "public", "name": "t", "columns": COLUMNS, "primaryKey": ["id"]}
INDEX = {"schema": "public", "name": "t_pkey", "tableName": "t", "columns": {"id": "ASC"}, "unique": True}
NAME = {"schema": "public", "name": "t"}


def shapes() -> Shapes:
    found = Shapes()
    found.change("create-table", {"spec": TABLE})
    found.change("create-index", {"spec": INDEX})
    return found


def shape() -> TableShape:
    return shapes().tables["t"]


def test_row_that_fits_is_returned_with_its_json_parsed() -> None:
    row = {"id": "a", "n": 1.5, "b": True, "j": '{"x":[1]}', "i": 5}
    assert shape().row_of(row, "s") == {**row, "j": {"x": [1]}}
    assert shape().row_of({"id": "a", "j": {"x": 1}}, "j") == {"id": "a", "j": {"x": 1}}
    assert shape().row_of({"id": "a", "n": None}, "s") == {"id": "a", "n": None}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"x": 1}, "t has no column x"),
        ({"id": None}, "null in the notNull column t.id"),
        ({"id": 5}, "t.id is not text"),
        ({"id": "a\0"}, "NUL in the key t.id"),
        ({"id": "\ud800"}, "a lone surrogate in t.id"),
        ({"n": "1"}, "t.n is not a number"),
        ({"n": True}, "t.n is not a number"),
        ({"n": float("nan")}, "t.n is not a number"),
        ({"n": 1 << 63}, "t.n is too big"),
        ({"i": 1 << 53}, "t.i is too big"),
        ({"b": 1}, "t.b is not a boolean"),
        ({"j": {}}, "t.j is not a JSON string"),
        ({"j": "NaN"}, "NaN is not JSON"),
    ],
)
def test_value_that_does_not_fit_its_column_is_a_violation(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Violation, match=reason):
        shape().row_of(row, "s")


def test_key_of_a_row_has_all_its_columns() -> None:
    assert shape().key_of({"id": "a", "n": 1}, "s") == ("a",)
    assert shape().key_of({"id": "a"}, "s", only=True) == ("a",)
    for row, only, reason in (
        ({"n": 1}, False, "has no id"),
        ({"id": None}, False, "has no id"),
        ({"id": "a", "n": 1}, True, "the key of t is"),
        ({"id": 5}, True, "t.id is not text"),
    ):
        with pytest.raises(Violation, match=reason):
            shape().key_of(row, "s", only=only)


def relation(**changed: Any) -> dict[str, Any]:
    return {"schema": "public", "name": "t", "rowKey": {"columns": ["id"]}, "keyColumns": ["id"], **changed}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"schema": "other"}, "outside of the schema public"),
        ({"name": "u"}, "an unknown table u"),
        ({"rowKey": {"columns": ["n"]}}, "the key of t is"),
        ({"keyColumns": []}, "the key of t is"),
    ],
)
def test_relation_that_is_not_the_tables_is_a_violation(changed: dict[str, Any], reason: str) -> None:
    assert shapes().of_relation(relation()).name == "t"
    with pytest.raises(Violation, match=reason):
        shapes().of_relation(relation(**changed))


def test_rows_before_the_unique_index_are_a_violation() -> None:
    """zero-cache ignores a table without one."""
    found = Shapes()
    found.change("create-table", {"spec": TABLE})
    with pytest.raises(Violation, match="before it has a unique index"):
        found.of_relation(relation())
    with pytest.raises(Violation, match="t has no unique index"):
        found.check_keys()


ADDED = {"pos": 6, "dataType": "text"}


def test_schema_changes_are_applied() -> None:
    found = shapes()
    before = found.copy()
    assert found.change("add-column", {"table": NAME, "column": {"name": "x", "spec": ADDED}}) == "t"
    assert found.change("drop-column", {"table": NAME, "column": "n"}) == "t"
    assert list(found.tables["t"].columns) == ["id", "b", "j", "i", "x"]
    found.change("drop-index", {"id": {"schema": "public", "name": "t_pkey"}})
    assert found.tables["t"].key == ()
    found.change("drop-table", {"id": NAME})
    assert (found.tables, found.indexes) == ({}, {})
    assert list(before.tables["t"].columns) == list(COLUMNS), "a copy is independent"


@pytest.mark.parametrize(
    ("tag", "body", "reason"),
    [
        ("create-table", {"spec": TABLE}, "t exists"),
        ("create-table", {"spec": {**TABLE, "name": "u", "columns": {}}}, "u has no columns"),
        ("create-table", {"spec": {**TABLE, "name": "u", "primaryKey": ["x"]}}, "is not among its columns"),
        ("create-table", {"spec": {**TABLE, "schema": "x", "name": "u"}}, "outside of the schema public"),
        ("create-table", {"spec": {**TABLE, "name": "u", "columns": {"a": {"pos": 1, "dataType": "x"}}}}, "the type x"),
        (
            "create-table",
            {"spec": {**TABLE, "name": "u", "columns": {"id": {"pos": 1, "dataType": "text", "dflt": "1"}}}},
            "has a default",
        ),
        ("create-index", {"spec": INDEX}, "the index t_pkey exists"),
        ("create-index", {"spec": {**INDEX, "name": "i", "tableName": "u"}}, "an unknown table u"),
        ("create-index", {"spec": {**INDEX, "name": "i"}}, "a second unique index on t"),
        ("create-index", {"spec": {**INDEX, "name": "i", "columns": {"id": "UP"}}}, "ASC or DESC"),
        ("create-index", {"spec": {**INDEX, "name": "i", "columns": {"x": "ASC"}, "unique": False}}, "t has no "),
        ("add-column", {"table": NAME, "column": {"name": "n", "spec": ADDED}}, "already has the column n"),
        (
            "add-column",
            {"table": NAME, "column": {"name": "x", "spec": {**ADDED, "notNull": True}}},
            "cannot be notNull",
        ),
        ("drop-column", {"table": NAME, "column": "x"}, "t has no column x"),
        ("drop-column", {"table": NAME, "column": "id"}, "an index of t uses the column id"),
        ("drop-table", {"id": {"schema": "public", "name": "u"}}, "an unknown table u"),
        ("rename-table", {}, "an unknown data message rename-table"),
    ],
)
def test_schema_change_that_zero_cache_would_not_survive_is_a_violation(
    tag: str, body: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Violation, match=reason):
        shapes().change(tag, body)


def test_unique_index_over_nullable_columns_is_a_violation() -> None:
    found = Shapes()
    found.change("create-table", {"spec": TABLE})
    with pytest.raises(Violation, match="is over nullable columns"):
        found.change("create-index", {"spec": {**INDEX, "columns": {"n": "ASC"}}})
