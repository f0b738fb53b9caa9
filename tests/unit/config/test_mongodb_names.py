"""Names that MongoDB takes for databases, collections and fields."""

from __future__ import annotations

import pytest

from zmsd.config.mongodb_names import collection_problem, database_problem, path_problem


@pytest.mark.parametrize("path", ["a", "_id", "a.b.c", "a.0", "ü", "a b", "a$", "a\u200cb.\u200d\u00a0", "\n"])
def test_valid_path_has_no_problem(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "$a", "a.$b", "a\0", "\ud800"])
def test_invalid_path_has_a_problem(path: str) -> None:
    assert path_problem(path)


@pytest.mark.parametrize("name", ["a", "a-b", "ü", "a" * 63, "a:|*<>?", "a\u200c\u200d\u00a0"])
def test_valid_database_has_no_problem(name: str) -> None:
    assert database_problem(name) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [("", "0 bytes"), ("a" * 64, "64 bytes"), ("ü" * 32, "64 bytes"), ("a.b", "'.'"), ("a b", "' '"), ("admin", "own")],
)
def test_invalid_database_has_a_problem(name: str, part: str) -> None:
    assert part in (database_problem(name) or "")


@pytest.mark.parametrize("name", ["a", "a.b", "a b", "system", "x.system", "a" * 253])
def test_valid_collection_has_no_problem(name: str) -> None:
    assert collection_problem(name) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("", "it is empty"),
        ("a$b", "'$'"),
        (".a", "begins with a dot"),
        ("system.views", "MongoDB's own"),
        ("x.system.y", "MongoDB's own"),
        ("a" * 254, "254 bytes"),
    ],
)
def test_invalid_collection_has_a_problem(name: str, part: str) -> None:
    assert part in (collection_problem(name) or "")
