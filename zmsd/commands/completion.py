"""``zmsd completion``: completion scripts of bash, zsh and fish, made from the parser of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SHELLS = ("bash", "zsh", "fish")


class Option(NamedTuple):
    """An option of a command."""

    names: tuple[str, ...]
    help: str
    choices: tuple[str, ...]
    takes: str
    """``file``, ``value``, or "" for an option without a value."""


class Command(NamedTuple):
    """A command with its options and the choices of its argument."""

    name: str
    help: str
    options: tuple[Option, ...]
    choices: tuple[str, ...]


def completion(shell: str, parser: argparse.ArgumentParser) -> int:
    """Print the script of a shell, and return the exit code."""
    made = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands_of(parser))
    sys.stdout.write("\n".join(made) + "\n")
    return 0


def commands_of(parser: argparse.ArgumentParser) -> list[Command]:
    """Return the commands of the parser."""
    found: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            about = {one.dest: one.help or "" for one in action._choices_actions}
            found += [_command(name, about.get(name, ""), inner) for name, inner in action.choices.items()]
    return found


def _command(name: str, about: str, parser: argparse.ArgumentParser) -> Command:
    options = [_option(action, parser) for action in parser._actions if action.option_strings]
    positional = [action for action in parser._actions if not action.option_strings]
    choices = tuple(str(choice) for action in positional for choice in action.choices or ())
    return Command(name, about, tuple(options), choices)


def _option(action: argparse.Action, parser: argparse.ArgumentParser) -> Option:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    takes = "" if action.nargs == 0 else "file" if action.type is Path else "value"
    return Option(tuple(action.option_strings), text, tuple(map(str, action.choices or ())), takes)


def _bash(commands: list[Command]) -> Iterator[str]:
    names = " ".join(command.name for command in commands)
    yield "# bash completion of zmsd; made by: zmsd completion bash"
    yield "_zmsd() {"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD - 1]}"'
    yield "    COMPREPLY=()"
    yield "    if ((COMP_CWORD == 1)); then"
    yield f'        COMPREPLY=($(compgen -W "{names} --help --version" -- "$word"))'
    yield "        return"
    yield "    fi"
    yield '    case "${COMP_WORDS[1]} $before" in'
    for command in commands:
        for option in command.options:
            pattern = " | ".join(f'"{command.name} {name}"' for name in option.names)
            if option.choices:
                yield f'        {pattern}) COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$word")); return ;;'
            elif option.takes == "file":
                yield f'        {pattern}) COMPREPLY=($(compgen -f -- "$word")); return ;;'
            elif option.takes:
                yield f"        {pattern}) return ;;"
    yield "    esac"
    yield '    case "${COMP_WORDS[1]}" in'
    for command in commands:
        words = " ".join([*command.choices, *(name for option in command.options for name in option.names)])
        yield f'        {command.name}) COMPREPLY=($(compgen -W "{words}" -- "$word")) ;;'
    yield "    esac"
    yield "}"
    yield "complete -o filenames -F _zmsd zmsd"


def _zsh(commands: list[Command]) -> Iterator[str]:
    yield "#compdef zmsd"
    yield "# zsh completion of zmsd; made by: zmsd completion zsh"
    yield "_zmsd() {"
    yield "    local -a commands=("
    for command in commands:
        yield f"        {_quoted(f'{command.name}:{command.help}')}"
    yield "    )"
    yield "    if ((CURRENT == 2)); then"
    yield "        _describe command commands"
    yield "        return"
    yield "    fi"
    yield '    local name="$words[2]"'
    yield "    shift words"
    yield "    ((CURRENT--))"
    yield '    case "$name" in'
    for command in commands:
        specs = [_quoted(spec) for option in command.options for spec in _zsh_specs(option)]
        if command.choices:
            specs.append(_quoted(f"1:what:({' '.join(command.choices)})"))
        yield f"        {command.name}) _arguments {' '.join(specs)} ;;"
    yield "    esac"
    yield "}"
    yield '_zmsd "$@"'


def _zsh_specs(option: Option) -> Iterator[str]:
    about = "".join(f"\\{c}" if c in "[]:\\" else c for c in option.help)
    value = {"": "", "file": ":file:_files", "value": ":value:"}[option.takes]
    if option.choices:
        value = f":value:({' '.join(option.choices)})"
    for name in option.names:
        yield f"{name}[{about}]{value}"


def _fish(commands: list[Command]) -> Iterator[str]:
    yield "# fish completion of zmsd; made by: zmsd completion fish"
    yield "complete -c zmsd -f"
    for command in commands:
        yield f"complete -c zmsd -n __fish_use_subcommand -a {command.name} -d {_quoted(command.help)}"
    for command in commands:
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        if command.choices:
            yield f"complete -c zmsd {seen} -a {_quoted(' '.join(command.choices))}"
        for option in command.options:
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
            value = {"": "", "file": " -r -F", "value": " -x"}[option.takes]
            if option.choices:
                value = f" -x -a {_quoted(' '.join(option.choices))}"
            yield f"complete -c zmsd {seen} {names}{value} -d {_quoted(option.help)}"


def _quoted(text: str) -> str:
    r"""Return a text in single quotes; ``'\''`` means a quote in all three shells."""
    return "'" + text.replace("'", "'\\''") + "'"
