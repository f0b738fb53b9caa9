"""The documents are well-formed, and every file that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import docutils.core
import pytest
from docutils.writers import null

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    [*ROOT.glob("*.rst"), *ROOT.glob("docs/*.rst"), *ROOT.glob("bench/*.rst"), *ROOT.glob("examples/*/*.rst")]
)
OF_CODE = [ROOT / "docs" / "architecture.rst", ROOT / "CONTRIBUTING.rst"]
FILE = re.compile(r"``((?:[\w.@-]+/)*[\w.@-]+(?:\.(?:py|rst|yaml|yml|json|cfg|env|service|html|toml|mjs)|/))``")
FOLDERS = ("", "zmsd", "tests/support", "tests/unit/rows", "tests/integration", "docs")
"""What a path may be relative to."""
ELSEWHERE = {"zmsd/watermarks/redis.py"}
"""The file of an example that is to be written."""
IDENTIFIER = re.compile(r"``([A-Za-z_]\w*)(?:\([^`]*\))?``")
FOREIGN = {"SOURCE_DATE_EPOCH", "vVERSION"}
"""Names that are not from the code."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_document_is_well_formed(page: Path) -> None:
    strict = {"report_level": 2, "halt_level": 2, "input_encoding": "utf-8"}
    docutils.core.publish_string(page.read_text(), str(page), writer=null.Writer(), settings_overrides=strict)


@pytest.mark.parametrize("page", OF_CODE, ids=name)
def test_document_names_only_files_that_exist(page: Path) -> None:
    named = set(FILE.findall(page.read_text())) - ELSEWHERE
    assert named
    missing = [file for file in named if not any((ROOT / folder / file).exists() for folder in FOLDERS)]
    assert not missing


def test_architecture_names_all_packages() -> None:
    text = OF_CODE[0].read_text()
    for package in sorted(ROOT.glob("zmsd/*/__init__.py")):
        assert f"``{package.parent.name}/``" in text


@pytest.mark.parametrize("page", [*OF_CODE, ROOT / "docs" / "glossary.rst"], ids=name)
def test_document_names_only_identifiers_that_exist(page: Path) -> None:
    code = "".join(file.read_text() for folder in ("zmsd", "tests") for file in (ROOT / folder).rglob("*.py"))
    known = set(re.findall(r"\w+", code)) | FOREIGN
    named = {word for word in IDENTIFIER.findall(page.read_text()) if re.search("_|[a-z][A-Z]", word)}
    assert named
    assert named - known == set()
