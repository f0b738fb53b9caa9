"""What the command line accepts, without running a command."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from zmsd.cli import _COMMANDS
from zmsd.command_line import parser

MOST = 2**31 - 1
RUN = dict.fromkeys(_COMMANDS, lambda options: 0)
PARSER = parser(RUN)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Only the parser runs: if it accepted a command, nothing would start."""
    with pytest.raises(SystemExit) as caught:
        PARSER.parse_args(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "inf", "x", "", " 1", "1_0", "٣", str(MOST + 1), "9" * 5000])
@pytest.mark.parametrize(
    "command", ["infer --uri mongodb://127.0.0.1:1/db --sample", "store prune --days", "demo --seconds"]
)
def test_invalid_number_is_a_usage_error(capsys: pytest.CaptureFixture[str], command: str, text: str) -> None:
    option = command.split()[-1]
    assert f"argument {option}: must be from 1 to {MOST}" in refused(capsys, *command.split()[:-1], f"{option}={text}")


@pytest.mark.parametrize("text", ["1", "30", str(MOST)])
def test_valid_number_is_accepted(text: str) -> None:
    assert PARSER.parse_args(["demo", "--seconds", text]).seconds == int(text)
    assert PARSER.parse_args(["infer", "--sample", text]).sample == int(text)


def test_port_beyond_the_range_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "must be from 0 to 65535" in refused(capsys, "demo", "--port", "65536")
    assert PARSER.parse_args(["demo", "--port", "0"]).port == 0


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    (found,) = [action for action in PARSER._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def test_each_command_has_a_parser_and_a_function() -> None:
    assert commands().keys() == _COMMANDS.keys()
    for name, command in commands().items():
        assert command.get_default("run") is RUN[name]


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_of_each_command_has_an_example_that_is_accepted(name: str) -> None:
    command = commands()[name]
    example = (command.epilog or "").removeprefix("example: zmsd ").partition(" | ")[0].partition(" > ")[0].split()
    assert example[0] == name
    PARSER.parse_args(example)
    assert all(action.help for action in command._actions)


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    """An option that is added later must not change what a script means."""
    assert "unrecognized arguments: --conf" in refused(capsys, "run", "--conf=x")


@pytest.mark.parametrize(
    "arguments",
    [
        "check --json --quiet",
        "status --json --watch",
        "verify",
        "verify --stream --replica f",
        "store",
        "store drop",
        "completion csh",
        "tail --shard x",
        "",
    ],
)
def test_options_that_do_not_fit_are_usage_errors(capsys: pytest.CaptureFixture[str], arguments: str) -> None:
    assert "error: " in refused(capsys, *arguments.split())


def test_paths_and_defaults_are_read() -> None:
    options = PARSER.parse_args(["verify", "--replica", "f.db", "--limit", "3"])
    assert (options.replica, options.limit, options.config, options.url) == (Path("f.db"), 3, None, None)
    assert PARSER.parse_args(["tail"]).app == "zmsd_tail"
    assert PARSER.parse_args(["conformance"]).app == "zmsd_conformance"
