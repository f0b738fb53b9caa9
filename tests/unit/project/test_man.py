"""The man pages and the other documents name every setting, variable and command that exists, and no other."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docutils.core
import pytest
from docutils.writers import manpage

from zmsd import cli
from zmsd.config import settings as config
from zmsd.config.settings import Config

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted((ROOT / "docs/man").glob("*.rst"))
COMMANDS_8 = (ROOT / "docs/man/zmsd.8.rst").read_text()
SETTINGS_5 = (ROOT / "docs/man/zmsd.yaml.5.rst").read_text()
EXAMPLE = (ROOT / "etc/zmsd.yaml").read_text()
README = (ROOT / "README.rst").read_text()


def settings(cls: Any = Config, path: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Yield (dotted name, field, type) of every setting."""
    for entry in fields(cls):
        hint = get_type_hints(cls)[entry.name]
        inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if inner:
            yield from settings(inner, f"{path}{entry.name}.")
        else:
            yield f"{path}{entry.name}", entry, hint


SETTINGS = {name: (entry, hint) for name, entry, hint in settings()}


def terms(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield (names, text in brackets after them) of each entry of the list of settings."""
    for line in re.findall(r"^``[a-z_.]+\.[a-z_]+``.*$", text, re.MULTILINE):
        yield re.findall(r"``([a-z_.]+)``", line), line.rpartition("(")[2].rstrip(")")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_manual_page_can_be_built(page: Path) -> None:
    strict = {"report_level": 1, "halt_level": 2}
    made = docutils.core.publish_string(page.read_text(), str(page), writer=manpage.Writer(), settings_overrides=strict)
    name, _, section = page.stem.rpartition(".")
    assert re.search(rf'^\.TH "{re.escape(name)}" "?{section}"? ', made.decode(), re.MULTILINE)


def test_each_setting_is_in_the_manual_once() -> None:
    found = [name for names, _ in terms(SETTINGS_5) for name in names]
    assert sorted(found) == sorted(SETTINGS)


def test_manual_has_the_defaults_bounds_and_choices() -> None:
    for names, said in terms(SETTINGS_5):
        for name in names:
            entry, hint = SETTINGS[name]
            default = entry.default
            has = default not in (MISSING, None, "", ())
            shown = str(default).lower() if isinstance(default, bool) else str(default).removesuffix(".0")
            told = re.search(r"default (\S+)$", said)
            assert (told[1] if told else None) == (shown if has else None), name
            low, high = entry.metadata.get("low", 0), entry.metadata.get("high", 0)
            if hint in (int, float) and name != "server.port":
                assert (f"{low} or more" if high == float("inf") else f"{low} to {high}") in said, name
            choices = next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), ())
            assert all(re.search(rf"\b{choice}\b", said) for choice in choices), name


def test_manual_names_only_existing_settings() -> None:
    sections = "|".join(entry.name for entry in fields(Config))
    mentioned = set(re.findall(rf"\b(?:{sections})\.[a-z_.]*[a-z_]\b", f"{SETTINGS_5} {COMMANDS_8} {README}"))
    files = {name for name in mentioned if re.search(r"\.(?:json|yaml|db|dev|permissions)$", name)}
    prefixes = {name.rpartition(".")[0] for name in SETTINGS}
    assert mentioned - files <= SETTINGS.keys() | prefixes


def test_each_variable_is_in_the_manual_and_the_example() -> None:
    for variable in config.ENVIRONMENT:
        assert f"``{variable}``" in SETTINGS_5
        assert re.search(rf"\b{variable}\b", EXAMPLE)
        assert re.search(rf"\b{variable}\b", README)
    named = set(re.findall(r"``([A-Z][A-Z_]+)``", SETTINGS_5))
    others = {
        "CREDENTIALS_DIRECTORY",
        "STATE_DIRECTORY",
        "ZERO_UPSTREAM_DB",
        "SCHEMA_SOURCE",
        "CONFIG_FILE",
        "NODE_ENV",
    }
    assert named - config.ENVIRONMENT.keys() <= others


def test_example_has_exactly_the_settings() -> None:
    """Settings that are commented out count too."""
    for section in (entry.name for entry in fields(Config)):
        found = re.search(rf"^{section}:\n((?:[ #].*\n|\n(?= ))*)", EXAMPLE, re.MULTILINE)
        assert found, section
        keys = {name.split(".")[1] for name in SETTINGS if name.startswith(f"{section}.")}
        shown = set(re.findall(r"^  (?:# )?(\w+):(?: |$)", found[1], re.MULTILINE))
        choices = {c for name, (_, hint) in SETTINGS.items() if name.startswith(section) for c in get_args(hint)}
        assert keys <= shown, section
        assert shown - keys <= choices, section  # a comment has the meaning of those


def test_example_loads_with_everything_set(tmp_path: Path) -> None:
    text = re.sub(r"^  # (\w+: )", r"  \1", EXAMPLE, flags=re.MULTILINE)
    text = re.sub(r"^  (uri_file|token_file|url|headers|refresh|tables|creds).*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\w+\.(crt|key)\b", "some.pem", text)
    (tmp_path / "some.pem").touch()
    (tmp_path / "zmsd.yaml").write_text(text)
    found = config.load(tmp_path / "zmsd.yaml", {})
    assert found.server.token
    assert found.zero.clients_collection


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = cli._parser()
    (actions,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(actions.choices)


def test_each_command_and_option_is_in_the_manual_and_the_readme() -> None:
    synopsis = COMMANDS_8.partition("SYNOPSIS")[2].partition("DESCRIPTION")[0]
    for name, parser in commands().items():
        options = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
        line = next(line for line in synopsis.splitlines() if f"**zmsd {name}**" in line)
        assert set(re.findall(r"\*\*(--[a-z0-9-]+)\*\*", line)) == options
        assert re.search(rf"^zmsd {name}\n-+$", COMMANDS_8, re.MULTILINE)
        assert re.search(rf"\b(?:zmsd|make) {name}\b", README), f"{name} is not in the README"
    known = {option for parser in commands().values() for action in parser._actions for option in action.option_strings}
    outside = {"--version", "--quiet", "--pipe", "--wait"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", COMMANDS_8)) <= known | outside


def test_manual_names_only_existing_commands() -> None:
    literals = [*re.findall(r"(?:\*\*|``|bin/)zmsd ([a-z][a-z-]*)\b", f"{COMMANDS_8} {SETTINGS_5} {README}")]
    named = {*literals, *re.findall(r"^ +zmsd ([a-z][a-z-]*)\b", README, re.MULTILINE)}
    assert named <= commands().keys()
