"""JSON as plain data, and the offsets of its members. test_document.py compares it with YAML."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmsd.config.document import parse
from zmsd.config.json_text import MAX_DEPTH, JsonMarks, parse_json
from zmsd.errors import ConfigError


def test_escaped_backslash_before_surrogate_digits_is_text() -> None:
    assert parse_json(r'["\\ud83d", "\ud7ff\ue000"]', "f") == [r"\ud83d", "\ud7ff\ue000"]


def test_json_positions_are_exact_after_escapes_and_tabs() -> None:
    text = '[\n\t{"a\\"}{": "]:,[",\n\t "b\\u0041": 1.5e3, "c": [], "d": {}, "e": null,\n\t "f": "x"}\n]'
    document = parse(text, "f", kind="json")
    assert [(document.issue((0, key), "").line, document.issue((0, key), "").column) for key in document.data[0]] == [
        (2, 3),
        (3, 3),
        (3, 21),
        (3, 30),
        (3, 39),
        (4, 3),
    ]


def test_each_repeated_json_key_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('{"a": {"b": 1,\n "b": {"b": 2}},\n "a": [{"c": 1, "c": 2}]}', "f", kind="json")
    assert list(map(str, caught.value.issues)) == [
        "f:2:2: a.b: is given twice",
        "f:3:2: a: is given twice",
        "f:3:17: a[0].c: is given twice",
    ]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1" * 5000])
def test_number_that_json_does_not_have_is_an_error(constant: str) -> None:
    with pytest.raises(ConfigError, match="f: not JSON: "):
        parse_json(f'{{"a": {constant}}}', "f")


def test_depth_counts_containers_and_not_brackets_in_text() -> None:
    deep = '[{"a":' * (MAX_DEPTH // 2) + "1" + "}]" * (MAX_DEPTH // 2)
    assert parse_json(deep, "f")
    assert parse_json(json.dumps(["[{" * 1000]), "f") == ["[{" * 1000]
    with pytest.raises(ConfigError, match="f:1:597: is nested too deeply"):
        parse_json(f"[{deep}]", "f")
    assert parse_json("[" + ",".join(["[]"] * 1000) + "]", "f"), "many lists beside each other are not deep"


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([None, 1]))
def test_offset_of_each_member_is_where_it_begins(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    marks = JsonMarks(text)

    def check(inner: object, path: tuple[str | int, ...]) -> None:
        if isinstance(inner, dict):
            for key, item in inner.items():
                assert text.startswith(json.dumps(key), marks.offset((*path, key)))
                check(item, (*path, key))
        if isinstance(inner, list):
            for index, item in enumerate(inner):
                assert text.startswith(json.dumps(item, indent=indent)[:1], marks.offset((*path, index)))
                check(item, (*path, index))

    check(value, ())


def test_offset_of_a_missing_member_is_that_of_its_container() -> None:
    marks = JsonMarks(' {"a": [1, 2]}')
    assert marks.offset(("b",)) == 1
    assert marks.offset(("a", 2)) == 2
    assert marks.offset(("a", "x")) == 2
    assert marks.offset(("a", 1, "x")) == 11
