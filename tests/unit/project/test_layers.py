"""The direction of imports, read from the source files. The table is in docs/architecture.rst."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import zmsd

ROOT = Path(zmsd.__file__).parent
MODULES = {
    ".".join(("zmsd", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# A module may import only modules of lower lines. One line is one level.
LEVELS = (
    ("zmsd.__main__",),
    ("zmsd.cli",),
    ("zmsd.command_line",),
    ("zmsd.demo",),
    ("zmsd.commands",),
    ("zmsd.verify",),
    ("zmsd.daemon",),
    ("zmsd.reloading",),
    ("zmsd.assembly",),
    ("zmsd.metadata",),
    ("zmsd.gateway",),
    ("zmsd.replication",),
    ("zmsd.zero",),
    ("zmsd.mongodb",),
    ("zmsd.rows", "zmsd.watermarks"),
    ("zmsd.schema",),
    ("zmsd.config", "zmsd.reload_result"),
    (
        "zmsd.retry",
        "zmsd.log",
        "zmsd.systemd",
        "zmsd.deadline",
        "zmsd.prometheus",
        "zmsd.position",
        "zmsd.bson_types",
        "zmsd.channel",
        "zmsd.pace",
    ),
    ("zmsd.errors",),
    ("zmsd",),
)
# These modules of the lowest level use one another; all others there use nothing but errors.
GROUND = {"zmsd.retry": {"zmsd.channel", "zmsd.log"}}

# Foreign modules, and the only modules that may import them.
OWNERS = {
    # config also parses the URI: it asks pymongo what is wrong with it.
    "pymongo.errors": ("zmsd.mongodb", "zmsd.commands", "zmsd.demo", "zmsd.config"),
    "simple_websocket": ("zmsd.gateway.websocket", "zmsd.commands.change_source_client"),
    "wsproto": ("zmsd.gateway.websocket", "zmsd.commands.change_source_client"),
    "sqlite3": ("zmsd.watermarks.sqlite", "zmsd.watermarks.sqlite_file", "zmsd.verify.row_file"),
    "nats": ("zmsd.watermarks.nats_buckets",),
    "yaml": ("zmsd.config",),
}


@cache
def imports(path: Path) -> tuple[str, ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    """Return every module that a file imports; ``from a import b`` is a.b if that is a module."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports say where from in full"
            assert node.module
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                # zmsd.__version__ and similar have no level
                yield name if name in MODULES or not node.module.startswith("zmsd") else node.module


def part_of(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def level(name: str) -> tuple[int, str]:
    """Return a module's level, counted from the top, and its package on that level."""
    for height, packages in enumerate(reversed(LEVELS)):
        for package in packages:
            if part_of(name, package) and (package != "zmsd" or name == "zmsd"):
                return height, package
    raise AssertionError(f"{name} is new: give it a level")


def test_imports_only_lower_layers() -> None:
    wrong = []
    for name, path in MODULES.items():
        height, package = level(name)
        for other in imports(path):
            if part_of(other, "zmsd"):
                below, its_package = level(other)
                own = its_package == package or other in GROUND.get(name, ())
                if not own and below >= height:
                    wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("foreign", OWNERS)
def test_foreign_modules_have_one_owner(foreign: str) -> None:
    users = {name for name, path in MODULES.items() if any(part_of(other, foreign) for other in imports(path))}
    strangers = {name for name in users if not any(part_of(name, owner) for owner in OWNERS[foreign])}
    assert not strangers


def test_only_the_command_line_ends_the_process() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                ends = (node.value.id, node.attr) in (("sys", "exit"), ("os", "_exit"), ("os", "abort"))
            else:
                ends = isinstance(node, ast.Name) and node.id in ("SystemExit", "exit", "quit")
            assert not ends or name == "zmsd.cli", f"{name}:{node.lineno}"


COMMANDS = ("zmsd.commands", "zmsd.demo")


def loads_a_command(modules: Iterable[str]) -> bool:
    return any(part_of(module, package) for module in modules for package in COMMANDS)


def test_daemon_does_not_load_commands() -> None:
    """Only the command line and the commands themselves load a command, and the command line only when it is called."""
    for name, path in MODULES.items():
        if not loads_a_command([name]) and name != "zmsd.cli":
            assert not loads_a_command(imports(path)), name
    tree = ast.parse(MODULES["zmsd.cli"].read_text())
    assert not loads_a_command([node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)])
