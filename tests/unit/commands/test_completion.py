from __future__ import annotations

import shutil
import subprocess

import pytest

from zmsd import cli
from zmsd.commands.completion import SHELLS, commands_of, completion

PARSER = cli._parser()


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert completion(shell, PARSER) == 0
    return capsys.readouterr().out


def completed(text: str, *words: str) -> list[str]:
    """Return what bash proposes for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    calls = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _zmsd; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    run = subprocess.run(["bash", "-c", f"{text}\n{calls}"], capture_output=True, text=True, check=True, timeout=30)
    return run.stdout.split()


@pytest.mark.parametrize("shell", SHELLS)
def test_script_has_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    for command in commands_of(PARSER):
        assert command.name in text
        for option in command.options:
            for name in option.names:
                fish = f"-l {name[2:]} " if name.startswith("--") else f"-s {name[1:]} "
                assert (fish if shell == "fish" else name) in text, name


@pytest.mark.parametrize("shell", SHELLS)
def test_script_is_valid(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script was NOT parsed")
    subprocess.run([shell, "-n"], input=script(shell, capsys), text=True, check=True, timeout=30)


def test_bash_completes_commands_options_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    text = script("bash", capsys)
    assert completed(text, "zmsd", "st") == ["status", "store"]
    assert completed(text, "zmsd", "verify", "--re") == ["--replica"]
    assert completed(text, "zmsd", "store", "p") == ["prune"]
    assert completed(text, "zmsd", "check", "--color", "a") == ["auto", "always"]
    assert completed(text, "zmsd", "store", "copy", "--to", "") == ["sqlite", "nats-kv"]
    assert completed(text, "zmsd", "check", "--config", "/etc/hostnam") == ["/etc/hostname"]
    assert completed(text, "zmsd", "tail", "--app", "") == []
