"""YAML as plain data, by the core schema of YAML 1.2. test_document.py compares it with JSON."""

from __future__ import annotations

import pytest

from zmsd.config import yaml_text
from zmsd.config.yaml_text import parse_yaml
from zmsd.errors import ConfigError


def issue_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "file")
    (issue,) = caught.value.issues
    return str(issue)


@pytest.mark.parametrize("word", ["off", "no", "yes", "on", "2020-01-01", "1:30", "0x", "1_000"])
def test_words_that_yaml_1_1_converts_are_text(word: str) -> None:
    assert parse_yaml(f"a: {word}\n{word}: 1", "f")[0] == {"a": word, word: 1}


def test_special_floats_of_yaml_are_read() -> None:
    data = parse_yaml("[.inf, -.INF, .nan]", "f")[0]
    assert data[:2] == [float("inf"), float("-inf")]
    assert data[2] != data[2]


def test_each_repeated_yaml_key_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("a:\n  b: 1\n  c: 2\n  b: 3\nd: 0\nd: 1\n", "f")
    assert list(map(str, caught.value.issues)) == ["f:4:3: a.b: is given twice", "f:6:1: d: is given twice"]


def test_yaml_aliases_beyond_the_limit_are_refused() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    assert issue_of(bomb) == "file: has more than 100000 values; a larger document must be JSON"


def test_yaml_values_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "MAX_YAML_VALUES", 1000)
    assert issue_of("[" + "0," * 2000 + "]").startswith("file:1:2000: has more than ")


def test_marks_of_values_are_those_of_their_keys() -> None:
    text = "a:\n  - x\n  - {b: y}\nc: *z\n".replace("*z", "w")
    data, marks = parse_yaml(text, "f")
    assert data == {"a": ["x", {"b": "y"}], "c": "w"}
    assert text[marks.offset(("a", 1, "b")) :].startswith("b: y")
    assert text[marks.offset(("a", 0)) :].startswith("x")
    assert text[marks.offset(("a", 7)) :].startswith("a:"), "the nearest value around what is missing"


def test_each_issue_of_a_document_is_reported_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "MAX_ISSUES", 3)
    with pytest.raises(ConfigError) as caught:
        parse_yaml("\n".join(f"- !x {number}" for number in range(9)), "f")
    assert len(caught.value.issues) == 3


def test_value_in_every_notation_of_a_number_is_a_number() -> None:
    data, _ = parse_yaml("[0x1F, 0o17, -7, +7, .5, 1e3, 1., 007]", "f")
    assert data == [31, 15, -7, 7, 0.5, 1000.0, 1.0, 7]
