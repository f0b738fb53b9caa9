"""The exit codes of commands: 2 for a usage error, 78 and 1 for a configuration error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zmsd import cli


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
