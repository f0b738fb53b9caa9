"""The names of the tests: ``test_<subject>_<condition>_<result>``, as far as a machine can judge that."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.project.test_words import BANNED

TESTS = Path(__file__).resolve().parents[2]
LONGEST = 80
"""The most characters of a name."""
FEWEST_WORDS = 3
"""The fewest words of a name after ``test``: subject, condition and result."""
NO_SUBJECT = frozenset(
    ("a", "an", "if", "in", "it", "no", "that", "the", "there", "these", "they", "this", "those")
    + ("what", "when", "where", "which", "while")
)
"""Words with which no name begins: the subject comes first, without an article."""
MANNERED = frozenset(("nobody", "said", "says", "told", "who"))
"""Words that no name has, besides those that no text has (test_words.py)."""


def names(file: Path) -> Iterator[str]:
    """Yield the names of a file's tests."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name


def problem(name: str) -> str | None:
    """Return why a name is not one of a test, or None."""
    words = name.split("_")[1:]
    if len(words) < FEWEST_WORDS:
        return f"has fewer than {FEWEST_WORDS} words: name subject, condition and result"
    if len(name) > LONGEST:
        return f"has more than {LONGEST} characters"
    if words[0] in NO_SUBJECT:
        return f"begins with {words[0]}: begin with the subject"
    banned = BANNED.search(" ".join(words))
    mannered = sorted(MANNERED.intersection(words)) or ([banned[0]] if banned else [])
    return f"has the word {mannered[0]}" if mannered else None


def test_names_have_subject_condition_and_result() -> None:
    wrong = []
    for file in sorted(TESTS.rglob("*.py")):
        found = list(names(file))
        wrong += [f"{file}: {name} {why}" for name in found if (why := problem(name))]
        wrong += [f"{file}: the later {name} replaces the earlier one" for name in found if found.count(name) > 1]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("test_server_start_fails_when_port_in_use", None),
        ("test_cursor_resumes_at_its_position", None),
        ("test_floods", "fewer than 3 words"),
        ("test_a_port_that_is_taken", "begins with a"),
        ("test_what_is_unknown_is_left_out", "begins with what"),
        ("test_client_that_asks_for_nonsense_is_told", "the word told"),
        ("test_view_that_is_no_collection_is_refused", "has the word is no"),
        ("test_" + "word_" * 20, "more than 80 characters"),
    ],
)
def test_problem_of_a_name_is_found(name: str, why: str | None) -> None:
    assert (problem(name) is None) if why is None else why in (problem(name) or "")
