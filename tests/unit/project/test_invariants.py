"""The invariants of docs/architecture.rst name modules that name the invariant, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NUMBERS = range(1, 11)


def cells(number: int) -> list[str]:
    """Return the four cells of an invariant's row."""
    text = (ROOT / "docs" / "architecture.rst").read_text()
    section = text.partition("\nInvariants\n")[2].partition("\nThe change event contract\n")[0]
    (row,) = re.findall(rf"^   \* - {number}\n(.*?)(?=^   \* - |^\S|\Z)", section, re.MULTILINE | re.DOTALL)
    return [str(number), *(" ".join(cell.split()) for cell in re.split(r"^     - ", row, flags=re.MULTILINE)[1:])]


@pytest.mark.parametrize("number", NUMBERS)
def test_module_that_holds_an_invariant_names_it(number: int) -> None:
    modules = re.findall(r"``([\w/]+\.py)``", cells(number)[2])
    assert modules
    for module in modules:
        text = (ROOT / "zmsd" / module).read_text()
        assert re.search(rf"invariants? {number}\b", text), f"{module} does not name invariant {number}"


@pytest.mark.parametrize("number", NUMBERS)
def test_names_and_tests_of_an_invariant_exist(number: int) -> None:
    _, _, held, tested = cells(number)
    tests = re.findall(r"``(tests/[\w/]+\.py)``", tested)
    assert tests
    assert [test for test in tests if not (ROOT / test).is_file()] == []
    code = "".join((ROOT / "zmsd" / module).read_text() for module in re.findall(r"``([\w/]+\.py)``", held))
    names = re.findall(r"``(\w+)``", held)
    assert [name for name in names if name != "ResumeLost" and not re.search(rf"\b{name}\b", code)] == []
