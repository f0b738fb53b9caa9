"""The outline of exceptions is complete, and they are defined in one module."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import zmsd
from zmsd import errors

ROOT = Path(zmsd.__file__).parent


def outline() -> dict[str, str]:
    """Return name -> base of every exception in the outline of the module's docstring."""
    assert errors.__doc__ is not None
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines()[1:]:
        if match := re.match(r"( *)([A-Z]\w+)(?:  |$)", line):
            indent = len(match[1])
            above = [(depth, name) for depth, name in above if depth < indent]
            found[match[2]] = above[-1][1] if above else "Exception"
            above.append((indent, match[2]))
    return found


def test_outline_matches_class_tree() -> None:
    defined = {
        name: value.__bases__[0].__name__
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert outline() == defined


def test_public_exceptions_are_defined_in_errors_only() -> None:
    known = {*outline(), "Exception", "ValueError", "OSError", "RuntimeError"}
    for path in sorted(ROOT.rglob("*.py")):
        if path == ROOT / "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                assert not bases & known, f"{path}: {node.name} belongs in errors.py"
