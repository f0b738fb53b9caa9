"""Invalid command lines: exit code 2 and the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zmsd import cli

MOST = 2**31 - 1


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Only the parser runs: if it accepted a command, nothing would start."""
    with pytest.raises(SystemExit) as caught:
        cli._parser().parse_args(arguments)
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
    assert cli._parser().parse_args(["demo", "--seconds", text]).seconds == int(text)
    assert cli._parser().parse_args(["infer", "--sample", text]).sample == int(text)


def test_port_beyond_the_range_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "must be from 0 to 65535" in refused(capsys, "demo", "--port", "65536")
    assert cli._parser().parse_args(["demo", "--port", "0"]).port == 0


def test_missing_option_is_a_usage_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONGODB_URI", raising=False)
    for arguments, expected in (
        (
            ["store", "copy", "--config", "none.yaml"],
            "zmsd store: error: copy needs --to sqlite or --to nats-kv",
        ),
        (["infer"], "zmsd infer: error: give --uri, or set MONGODB_URI"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1] == expected


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"feed": {"heartbeat": -1}}, 78),
        ({"schema": {"file": "none.json"}}, 78),
        ({"server": {"tls": {"cert": "none.crt", "key": "none.key"}}}, 1),
        ({"server": {"token_file": "none"}}, 1),
        ({"schema": {"url": "http://127.0.0.1:1/schema"}}, 1),
        ({"server": {"token_file": "none"}, "feed": {"heartbeat": -1}}, 78),
    ],
)
def test_exit_code_is_78_only_for_permanent_errors(
    change: dict[str, Any], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """systemd does not restart the unit after 78."""
    (tmp_path / "schema.json").write_text('{"t": {"columns": {"id": {"type": "string"}}, "primaryKey": ["id"]}}')
    settings = {"mongodb": {"uri": "mongodb://127.0.0.1:1/db"}, "schema": {"file": "schema.json"}, **change}
    (tmp_path / "zmsd.json").write_text(json.dumps(settings))
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "--config", str(tmp_path / "zmsd.json")])
    assert caught.value.code == code, capsys.readouterr().err
