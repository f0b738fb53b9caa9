from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from bson import Decimal128, Int64, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from hypothesis import given
from hypothesis import strategies as st

from zmsd.rows import bson_json
from zmsd.rows.plain import Row, compile_rows, walk
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec

ID = ("id", "string", "_id")
Columns = list[tuple[str, str, str]]


def table(columns: Columns, key: tuple[str, ...] = ("id",), condition: dict[str, Any] | None = None) -> Table:
    """Return a table of (column, type, path)."""
    spec = TableSpec("t", tuple(Column(name, kind) for name, kind, _ in columns), key)
    return Table(spec, Mapping("c", tuple((name, path) for name, _, path in columns), condition))


def rows(
    columns: Columns,
    *documents: dict[str, Any],
    key: tuple[str, ...] = ("id",),
    condition: dict[str, Any] | None = None,
    rejects: Rejects | None = None,
) -> list[tuple[Any, Any] | None]:
    """Return (key, row) of each document, parsed."""
    function = compile_rows(table(columns, key, condition), rejects)
    made: list[Row | None] = [function(document) for document in documents]
    return [None if row is None else (json.loads(row[0]), json.loads(row[1])) for row in made]


def test_row_has_all_columns() -> None:
    columns = [ID, ("n", "number", "n"), ("b", "boolean", "deep.b"), ("j", "json", "j"), ("z", "null", "z")]
    document = {"_id": "1", "n": 5, "deep": {"b": True}, "j": {"a": [1]}, "z": None, "more": 1}
    assert rows(columns, document, {"_id": "2"}) == [
        ({"id": "1"}, {"id": "1", "n": 5, "b": True, "j": '{"a":[1]}', "z": None}),
        ({"id": "2"}, {"id": "2", "n": None, "b": None, "j": None, "z": None}),
    ]


# A path has no dots in its names: they are what is between dots.
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00."), min_size=1, max_size=6)
ODD = st.sampled_from(["{c0}", "{{", "}", "'", '"', '"""', "\\", "\\N{DASH}", "\n", "\r", "\x1b", "é", "🎈", "d", "v"])


@given(st.lists(st.tuples(NAMES | ODD, st.lists(NAMES | ODD, min_size=1, max_size=3), st.text(max_size=4)), max_size=5))
def test_columns_and_paths_may_have_any_name(odd: list[tuple[str, list[str], str]]) -> None:
    columns: Columns = [ID]
    document: dict[str, Any] = {"_id": "key"}
    expected = {"id": "key"}
    for name, path, value in odd:
        if name not in expected and path[0] not in document:
            columns.append((name, "string", ".".join(path)))
            expected[name] = value
            inner = document
            for step in path[:-1]:
                inner = inner.setdefault(step, {})
            inner[path[-1]] = value
    assert rows(columns, document) == [({"id": "key"}, expected)]
    key = tuple(name for name, _, _ in columns)
    if not any("\x00" in value for value in expected.values()):
        assert rows(columns, document, key=key) == [(expected, expected)]


def test_table_of_300_columns_is_compiled() -> None:
    columns: Columns = [ID, *((f"c{number}", "number", f"f{number}") for number in range(300))]
    ((_, row),) = rows(columns, {"_id": "1", **{f"f{number}": number for number in range(300)}})  # type: ignore[misc]
    assert row == {"id": "1", **{f"c{number}": number for number in range(300)}}


def test_key_has_the_key_columns_of_the_row() -> None:
    columns = [("b", "number", "b"), ("text", "string", "t"), ("a", "string", "_id")]
    document = {"_id": "x", "b": Int64(7), "t": "t"}
    assert rows(columns, document, key=("a", "b")) == [({"a": "x", "b": 7}, {"a": "x", "b": 7, "text": "t"})]


@pytest.mark.parametrize("bad", [None, float("nan"), "text", "missing"])
def test_row_without_its_key_is_rejected_and_counted(bad: Any) -> None:
    rejects = Rejects()
    document = {"_id": "doc"} if bad == "missing" else {"_id": "doc", "n": bad}
    assert rows([("n", "number", "n")], document, key=("n",), rejects=rejects) == [None]
    assert rejects.counts()["t", "no primary key"] == 1
    newest = rejects.newest()[-1]
    assert (newest.id, newest.effect, newest.column) == ("doc", "row not sent", "n")


def test_reject_of_a_key_names_the_column_that_is_missing() -> None:
    rejects = Rejects()
    columns = [("a", "number", "a"), ("b", "string", "b"), ("c", "string", "c")]
    documents = [{"_id": "1", "a": 1, "c": "x"}, {"_id": "2", "a": 1, "b": "x", "c": "a\x00b"}]
    assert rows(columns, *documents, key=("a", "b", "c"), rejects=rejects) == [None, None]
    assert [(reject.id, reject.column) for reject in rejects.newest()] == [("1", "b"), ("2", "c")]


def test_values_of_a_row_without_a_key_are_not_counted_as_null() -> None:
    rejects = Rejects()
    columns = [("text", "string", "t"), ("id", "string", "k"), ("n", "number", "n")]
    assert rows(columns, {"_id": "1", "t": {}, "n": "x"}, rejects=rejects) == [None]
    assert rejects.counts() == {("t", "no primary key"): 1}


def test_value_that_does_not_fit_a_key_is_not_called_null() -> None:
    rejects = Rejects()
    assert rows([ID, ("n", "number", "n")], {"_id": "1", "n": "x"}, key=("n",), rejects=rejects) == [None]
    assert [(reject.reason, reject.effect) for reject in rejects.newest()] == [
        ("string in number column n", "row not sent"),
        ("no primary key", "row not sent"),
    ]


def test_key_with_a_nul_is_rejected() -> None:
    rejects = Rejects()
    assert rows([ID], {"_id": "a\x00b"}, rejects=rejects) == [None]
    assert rejects.counts() == {("t", "no primary key"): 1}


@pytest.mark.parametrize("key", ["null", "", "\\u0000", "a\\\\u0000", "u0000", "\x01", '"'])
def test_key_may_be_any_other_text(key: str) -> None:
    assert rows([ID], {"_id": key}) == [({"id": key}, {"id": key})]


def test_nul_in_another_column_is_kept() -> None:
    assert rows([ID, ("t", "string", "t")], {"_id": "1", "t": "\x00"}) == [({"id": "1"}, {"id": "1", "t": "\x00"})]


def test_value_that_does_not_fit_is_null_and_counted() -> None:
    rejects = Rejects()
    columns = [ID, ("n", "number", "v"), ("b", "boolean", "v"), ("s", "string", "v")]
    documents = [{"_id": "1", "v": "text"}, {"_id": "2", "v": []}, {"_id": "3", "v": True}]
    assert [row[1] for row in rows(columns, *documents, rejects=rejects) if row] == [
        {"id": "1", "n": None, "b": None, "s": "text"},
        {"id": "2", "n": None, "b": None, "s": None},
        {"id": "3", "n": None, "b": True, "s": "true"},
    ]
    assert rejects.counts() == {
        ("t", "string in number column n"): 1,
        ("t", "string in boolean column b"): 1,
        ("t", "array in number column n"): 1,
        ("t", "array in boolean column b"): 1,
        ("t", "array in string column s"): 1,
        ("t", "bool in number column n"): 1,
    }
    assert {reject.effect for reject in rejects.newest()} == {"value sent as null"}
    assert [reject.column for reject in rejects.newest()] == ["n", "b", "n", "b", "s", "n"]


@pytest.mark.parametrize("kind", bson_json.BY_TYPE)
@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            True,
            False,
            0,
            -5,
            2**31 - 1,
            Int64(2**53),
            Int64(2**60),
            1.5,
            -0.0,
            float("nan"),
            1e20,
            "",
            'q"\\\n',
            b"x",
        ),
        *(ObjectId(b"1" * 12), datetime(1, 1, 1), datetime(1970, 1, 1), datetime(1969, 12, 31, 23, 59, 59, 999000)),
        *(datetime(2024, 2, 29, 12, 30, 15, 7000), datetime(9999, 12, 31), DatetimeMS(2**50), Decimal128("1.50")),
        *(Timestamp(5, 1), Regex("x"), [1, None], {"a": ObjectId(b"0" * 12)}, MinKey()),
    ],
)
def test_inline_text_is_what_bson_json_writes(kind: str, value: Any) -> None:
    ((_, row),) = rows([ID, ("v", kind, "v")], {"_id": "1", "v": value})  # type: ignore[misc]
    assert row["v"] == json.loads(bson_json.BY_TYPE[kind](value) or "null")


def test_only_documents_that_match_the_filter_have_rows() -> None:
    rejects = Rejects()
    documents = [{"_id": "1", "kind": "user"}, {"_id": None, "kind": "group"}, {"_id": "3", "kind": ["user"]}]
    made = rows([ID], *documents, condition={"kind": "user"}, rejects=rejects)
    assert made == [({"id": "1"}, {"id": "1"}), None, ({"id": "3"}, {"id": "3"})]
    assert not rejects.counts(), "what has no row needs no key"


def test_equal_rows_have_equal_texts() -> None:
    function = compile_rows(table([ID, ("n", "number", "n")]))
    one, other = function({"_id": "1", "n": Decimal128("5.0"), "x": 1}), function({"x": 2, "n": 5.0, "_id": "1"})
    assert one == other


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        ({"a": 1}, "a", 1),
        ({"a": {"b": 1}}, "a.b", 1),
        ({"a": 1}, "a.b", None),
        ({}, "a.b.c", None),
        ({"a": [{"b": 1}, {"b": 2}, {}, 3, [{"b": 4}]]}, "a.b", [1, 2]),
        ({"a": [{"b": None}]}, "a.b", [None]),
        ({"a": []}, "a.b", []),
        ({"a": [1]}, "a.b.c", []),
        ({"a": [{"b": [{"c": 1}, {}]}, {"b": 5}, {"b": {"c": 2}}]}, "a.b.c", [[1], 2]),
        ({"a": {"0": 1}}, "a.0", 1),
        ({"a": [5]}, "a.0", []),
        ({"a": DBRef("c", 1, b={"c": 1})}, "a.b.c", 1),
        ({"a": [DBRef("c", 1, b=1), DBRef("c", 1)]}, "a.b", [1]),
    ],
)
def test_path_is_read_as_mongodb_reads_it(value: Any, path: str, expected: Any) -> None:
    assert walk(value, tuple(path.split("."))) == expected
