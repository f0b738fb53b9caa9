"""The versions that are pinned: for .venv and the package, and the oldest that setup.cfg allows."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]


def pinned(file: str) -> dict[str, Version]:
    """Return name -> version of each line ``name==version``."""
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / file).read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in lines}


def required(*extras: str) -> list[Requirement]:
    """Return the requirements of setup.cfg: those of an installation, or of these extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    options = config["options.extras_require"]
    texts = [options[extra] for extra in extras] or [config["options"]["install_requires"]]
    return [Requirement(line) for text in texts for line in text.splitlines() if line]


def test_each_requirement_is_pinned_within_its_bounds() -> None:
    found = pinned("tests/constraints.txt")
    for requirement in (*required(), *required("man", "demo", "nats", "dist", "test")):
        version = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version}"


def test_oldest_versions_are_the_lower_bounds() -> None:
    bounds = {}
    for requirement in (*required(), *required("nats")):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        bounds[canonicalize_name(requirement.name)] = Version(bound.version)
    assert pinned("tests/oldest.txt") == bounds


def test_version_has_its_entry_in_the_changelog() -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "zmsd/__init__.py").read_text())
    assert version
    assert re.search(rf"^{re.escape(version[1])} \(.+\)\n-+$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
