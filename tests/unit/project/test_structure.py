"""The structure of the package and of its unit tests: sizes, mirrored modules, docstrings, the outline of errors."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import zmsd
from zmsd import errors
from zmsd.config import settings

PACKAGE = Path(zmsd.__file__).parent
ROOT = PACKAGE.parent
UNIT = ROOT / "tests" / "unit"
MODULES = tuple(path.relative_to(ROOT).as_posix() for path in sorted(PACKAGE.rglob("*.py")))
LINES = 350
"""The most lines that a module has."""

WITHOUT_UNIT_TESTS = {
    "zmsd/__main__.py": "tests/integration/test_tools.py",  # python -m zmsd
    "zmsd/commands/infer.py": "tests/integration/test_infer.py",  # the rules are in infer_tables.py
    "zmsd/commands/verify.py": "tests/integration/test_verify.py",  # the rules are in zmsd/verify/
    "zmsd/demo/chat.py": "tests/integration/test_demo.py",  # an application that writes to MongoDB
    "zmsd/demo/demo.py": "tests/integration/test_demo.py",  # starts mongod and the daemon
    "zmsd/mongodb/oplog.py": "tests/integration/test_oplog.py",  # what mongod answers of its oplog
    "zmsd/watermarks/nats.py": "tests/integration/test_store.py",  # the contract of all stores, with a real server
    "zmsd/watermarks/nats_buckets.py": "tests/integration/test_store_nats.py",  # the connection to a real server
}
"""Modules without unit tests of their own -> the tests that run them: a fake of the server would prove nothing."""
MOST_WITHOUT_UNIT_TESTS = 8

WITHOUT_MODULE: set[str] = {
    "gateway/test_fuzz.py",
    "schema/test_zero_sources.py",
}
"""Unit tests of more than one module, or of one that has several files of tests."""


def mirrored(module: str) -> str:
    """Return the file of a module's unit tests, relative to tests/unit."""
    path = Path(module).relative_to("zmsd")
    return path.with_name(f"test_{path.name}").as_posix()


def unit_tests() -> set[str]:
    """Return the unit tests that belong to a module, relative to tests/unit."""
    files = {path.relative_to(UNIT).as_posix() for path in UNIT.rglob("test_*.py")}
    return {file for file in files if not file.startswith(("project/", "support/"))}


def undocumented(module: str) -> Iterator[str]:
    """Yield the name of each public class, function and method without a docstring, its own or an inherited one."""
    imported = importlib.import_module(module.removesuffix(".py").replace("/", "."))
    for node in ast.parse((ROOT / module).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.name
            for member in node.body if isinstance(node, ast.ClassDef) else ():
                if not isinstance(member, ast.FunctionDef) or member.name.startswith("_"):
                    continue
                if not inspect.getdoc(getattr(getattr(imported, node.name), member.name)):
                    yield f"{node.name}.{member.name}"


def settings_without_docstring() -> set[str]:
    """Return ``Class.field`` for each setting that no docstring follows."""
    documented = set()
    for node in ast.parse(inspect.getsource(settings)).body:
        body = node.body if isinstance(node, ast.ClassDef) else []
        for member, following in zip(body, body[1:], strict=False):
            match member, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str())):
                    documented.add(f"{node.name}.{name}")  # type: ignore[attr-defined]
                case _:
                    pass
    classes = [each for _, each in inspect.getmembers(settings, is_dataclass) if each.__module__ == settings.__name__]
    return {f"{each.__name__}.{entry.name}" for each in classes for entry in fields(each)} - documented


def test_module_length_at_most_350_lines() -> None:
    counts = {module: len((ROOT / module).read_text().splitlines()) for module in MODULES}
    assert not {module: count for module, count in counts.items() if count > LINES}


def test_public_names_have_docstrings() -> None:
    # Importing __main__ runs the command line.
    found = {module: list(undocumented(module)) for module in MODULES if module != "zmsd/__main__.py"}
    assert not {module: names for module, names in found.items() if names}


def test_modules_have_docstrings() -> None:
    assert not [module for module in MODULES if not ast.get_docstring(ast.parse((ROOT / module).read_text()))]


def test_settings_have_docstrings() -> None:
    assert not settings_without_docstring()


def test_modules_have_unit_tests() -> None:
    lacking = {
        module for module in MODULES if not module.endswith("__init__.py") and mirrored(module) not in unit_tests()
    }
    assert lacking == WITHOUT_UNIT_TESTS.keys()
    assert len(lacking) <= MOST_WITHOUT_UNIT_TESTS
    assert all((ROOT / tests).is_file() for tests in WITHOUT_UNIT_TESTS.values())


def test_unit_tests_have_their_module() -> None:
    assert not unit_tests() - {mirrored(module) for module in MODULES} - WITHOUT_MODULE


def test_lists_name_files_that_exist() -> None:
    assert not WITHOUT_MODULE - unit_tests()


def test_errors_outline_names_every_exception() -> None:
    outline = {line.split()[0] for line in (errors.__doc__ or "").splitlines()[2:] if line.strip()}
    assert {name for name, value in vars(errors).items() if _is_exception(value)} <= outline


def test_errors_outline_shows_base_classes() -> None:
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines()[2:]:
        if found := re.match(r"( *)([A-Z]\w+)  ", line + "  "):
            depth, name = len(found[1]), found[2]
            above[depth] = name
            if depth:
                assert getattr(errors, name).__base__.__name__ == above[depth - 4], name


def test_public_exceptions_are_in_errors() -> None:
    for info in pkgutil.walk_packages(zmsd.__path__, "zmsd."):
        if info.name != "zmsd.__main__":
            module = importlib.import_module(info.name)
            own = {
                name for name, value in vars(module).items() if _is_exception(value) and value.__module__ == info.name
            }
            assert info.name == "zmsd.errors" or all(name.startswith("_") for name in own), info.name


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception) and value.__module__.startswith("zmsd")
