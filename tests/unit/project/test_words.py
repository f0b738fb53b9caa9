"""The words that the project does not use; docs/glossary.rst has the terms that it uses instead."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import zmsd

ROOT = Path(zmsd.__file__).parents[1]
HELD = ("zmsd", "docs", "etc", "tests", "bench", "examples", "packaging", "systemd", "*.rst")
"""Files and directories in which the words are banned."""
SELF = Path(__file__).relative_to(ROOT).as_posix()

_BETWEEN = r"(?:\s+(?:[#*]\s+)?)"  # the words may be on two lines, of a comment as well
BANNED = re.compile(
    r"\b(?:afresh|anew|by and by|lest|it is said|(?:is|are) told|goes round|whoever|at hand".replace(" ", _BETWEEN)
    # "there is no", "is no longer", "is no more than" are plain English
    + rf"|(?<!\bthere\s){r'(?:is|are)'}{_BETWEEN}no{_BETWEEN}(?!(?:longer|more|less|larger|smaller|later)\b)\w)",
    re.IGNORECASE,
)


@cache
def tracked() -> tuple[str, ...]:
    """Return the text files that are held to the words, relative to the root."""
    if (ROOT / ".git").exists():
        files = subprocess.run(["git", "ls-files", *HELD], cwd=ROOT, capture_output=True, text=True, check=True)
        names = files.stdout.splitlines()
    else:  # an unpacked sdist
        paths = [path for held in HELD for path in (ROOT / held, *sorted((ROOT / held).rglob("*")))]
        names = [path.relative_to(ROOT).as_posix() for path in paths if path.suffix != ".pyc"]
    return tuple(file for file in names if file != SELF and (ROOT / file).is_file())


def banned_words(file: str) -> list[str]:
    """Return ``line: word`` for each banned word of a file, and each name in Python that has ``place`` in it."""
    try:
        text = (ROOT / file).read_text()
    except UnicodeDecodeError:
        return []
    found = [(text.count("\n", 0, match.start()) + 1, " ".join(match[0].split())) for match in BANNED.finditer(text)]
    if file.endswith(".py"):
        found += [(line, name) for line, name in _names(text) if {"place", "places"} & set(name.split("_"))]
    return [f"{line}: {word}" for line, word in sorted(found)]


def _names(text: str) -> list[tuple[int, str]]:
    """Return (line, name) for each name that a module binds."""
    names = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.append((node.lineno, name))
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.append((node.lineno, name))
            case _:
                pass
    return names


def test_pattern_private_words_found() -> None:
    for text in ("read anew", "goes\nround", "is no\n# name", "Whoever asks", "they are no use", "is told so"):
        assert BANNED.search(text), text
    for text in ("there is no file", "is no longer than", "is not", "this noble", "told", "are not", "there\nare no x"):
        assert not BANNED.search(text), text


def test_files_have_no_banned_word() -> None:
    found = [f"{file}:{word}" for file in tracked() for word in banned_words(file)]
    assert not found, "\n".join(found)
