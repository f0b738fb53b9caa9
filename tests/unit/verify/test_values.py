from __future__ import annotations

import json

import pytest

from zmsd.schema.tables import Column
from zmsd.verify.values import differing, dump, key_of, object_text, sorted_key, stored_text

COLUMNS = [Column("id", "string"), Column("n", "number"), Column("b", "boolean"), Column("j", "json")]


def row(**values: object) -> str:
    return dump({"id": "a", "n": None, "b": None, "j": None} | values)


def test_key_of_sorts_its_members() -> None:
    assert key_of({"b": 1, "a": "ü", "c": 2}, ("b", "a")) == '{"a":"ü","b":1}'


def test_sorted_key_equals_key_of_a_row() -> None:
    assert sorted_key('{"b":1,"a":"x"}', ("a", "b")) == '{"a":"x","b":1}'
    assert sorted_key('{"b":1}', ("b",)) == '{"b":1}'


@pytest.mark.parametrize(
    ("data_type", "value", "text"),
    [
        ("text", None, "null"),
        ("text", 'a"\0', '"a\\"\\u0000"'),
        ("double precision", 5.0, "5"),
        ("double precision", 1.5, "1.5"),
        ("double precision", 1e20, '"1e+20"'),
        ("boolean", 1, "true"),
        ("boolean", 0, "false"),
        ("boolean", 7, "7"),
        ("json", '{"a":1}', '"{\\"a\\":1}"'),
        ("json", 5, '"5"'),
        ("json", 1e20, '"1e+20"'),
        ("json", 9.223372036854776e18, '"9.223372036854776e+18"'),
    ],
)
def test_stored_text_is_what_zmsd_sends(data_type: str, value: int | float | str | None, text: str) -> None:
    assert stored_text(data_type, value) == text


def test_object_text_is_json() -> None:
    assert object_text({'a"': "1", "b": "null"}) == '{"a\\"":1,"b":null}'
    assert json.loads(object_text({'a"': "1", "b": "null"})) == {'a"': 1, "b": None}


@pytest.mark.parametrize(
    ("column", "want", "have"),
    [
        ("n", 5, 5.0),
        ("n", "1e+20", 1e20),
        ("j", "5.0", "5"),
        ("j", '{"a":[1.0,{"b":2}]}', '{"a": [1, {"b": 2}]}'),
        ("j", None, None),
    ],
)
def test_equal_values_in_other_words_do_not_differ(column: str, want: object, have: object) -> None:
    assert differing(COLUMNS, row(**{column: want}), row(**{column: have})) == ()


@pytest.mark.parametrize(
    ("column", "want", "have"),
    [
        ("id", "a", "b"),
        ("id", "5", 5),
        ("n", 0, None),
        ("n", 1, True),
        ("n", 5, 5.000000000000001),
        ("n", 5, "five"),
        ("b", True, 1),
        ("b", False, None),
        ("j", "true", "1"),
        ("j", "0", "false"),
        ("j", '{"a":1}', '{"a":2}'),
        ("j", '"5"', "5"),
        ("j", "{}", "{"),
    ],
)
def test_other_values_differ(column: str, want: object, have: object) -> None:
    assert differing(COLUMNS, row(**{column: want}), row(**{column: have})) == (column,)


def test_column_that_only_the_replica_has_is_left_out() -> None:
    assert differing(COLUMNS, row(), row(old="x")) == ()
