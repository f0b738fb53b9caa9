"""``zmsd check --offline``: files, store, port and certificate. Integration tests check a MongoDB."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.certificates import ONE
from tests.support.endpoint import Endpoint
from tests.support.main_thread import write_settings
from zmsd.commands import check as checks
from zmsd.commands.check import EX_CONFIG, Output, check
from zmsd.errors import ConfigError
from zmsd.gateway import tls
from zmsd.watermarks.sqlite import SqliteStore

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return ``run(server={…})``, which checks settings with these sections, and returns the code and the lines."""

    def run(output: Output = Output(), *, strict: bool = False, **sections: Any) -> tuple[int, list[str]]:  # noqa: B008
        code = check(write_settings(tmp_path, **sections), {}, offline=True, strict=strict, output=output)
        return code, capsys.readouterr().out.splitlines()

    return run


def test_good_settings_have_no_errors(run: Run, tmp_path: Path) -> None:
    code, lines = run()
    assert code == 0
    assert lines == [
        "ok: config: mongodb://127.0.0.1:1/test?serverSelectionTimeoutMS=***, database test",
        "ok: table notes from notes: id string, text string",
        f"ok: store: {tmp_path}/watermarks.db will be created",
        "ok: port: 127.0.0.1:0 is free",
        "no errors",
    ]


def test_quiet_output_has_nothing_that_is_right(run: Run) -> None:
    assert run(Output(quiet=True)) == (0, [])
    code, lines = run(Output(quiet=True), watermarks={"path": "/proc/none/w.db"})
    assert code == 1
    assert lines[-1] == "1 error"
    assert len(lines) == 2


def test_json_has_all_findings_and_the_counts(run: Run) -> None:
    code, lines = run(Output(json=True))
    found = json.loads("\n".join(lines))
    assert (code, found["errors"], found["warnings"]) == (0, 0, 0)
    assert {finding["level"] for finding in found["findings"]} == {"ok"}


def test_wrong_configuration_is_raised_or_a_finding_of_the_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError):
        run(feed={"heartbeat": -1})
    code, lines = run(Output(json=True), feed={"heartbeat": -1})
    assert code == EX_CONFIG
    assert json.loads("\n".join(lines))["errors"] == 1
    code, _ = run(Output(json=True), server={"port": 0, "token_file": "none"})
    assert code == 1, "the file may come"


def test_warning_is_an_error_only_if_strict(run: Run, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "watermarks.db", serves=True)
    try:
        code, lines = run(server={"port": 4001})
        assert code == 0
        assert any(line.startswith("warning: store: ") and "a running zmsd uses it" in line for line in lines)
        assert run(strict=True, server={"port": 4001})[0] == 1
    finally:
        store.close()


def test_store_that_cannot_be_made_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, obstacle in (("file/w.db", tmp_path / "file"), ("folder", tmp_path / "folder")):
        code, lines = run(watermarks={"path": path})
        assert code == 1
        assert any(f"{obstacle} is in the way (watermarks.path)" in line for line in lines)


def test_store_that_is_not_a_database_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "watermarks.db").write_bytes(b"no database" * 100)
    code, lines = run()
    assert code == 1
    assert any(line.startswith("error: store: ") for line in lines)


def test_shared_store_is_not_connected_to(run: Run) -> None:
    code, lines = run(watermarks={"storage": "nats-kv"}, nats={"servers": "127.0.0.1:1", "bucket": "b"})
    assert code == 0
    assert "ok: store: NATS bucket b (not connected to)" in lines


def test_port_that_another_process_has_is_an_error(run: Run) -> None:
    other = Endpoint()
    try:
        other.say("/healthz", Server="nginx")
        code, lines = run(server={"port": other.port})
    finally:
        other.stop()
    assert code == 1
    assert any("another process uses it" in line for line in lines)


def test_host_that_is_not_of_this_machine_is_an_error(run: Run) -> None:
    code, lines = run(server={"host": "192.0.2.1", "port": 0, "token": "x"})
    assert code == 1
    assert any("Cannot assign requested address (server.host, server.port)" in line for line in lines)


def test_certificate_that_cannot_be_loaded_is_an_error(run: Run, tmp_path: Path) -> None:
    files = ONE.write(tmp_path)
    code, lines = run(server={"port": 0, "tls": {"cert": files["cert"], "key": files["key"]}})
    assert code == 0
    assert f"ok: server.tls: {files['cert']}" in lines
    Path(files["cert"]).write_text("nonsense")
    code, lines = run(server={"port": 0, "tls": {"cert": files["cert"], "key": files["key"]}})
    assert code == 1


@pytest.mark.parametrize(("days", "level", "verb"), [(20, "warning", "expires"), (-1, "error", "expired")])
def test_certificate_that_ends_soon_is_a_warning_and_later_an_error(
    days: int, level: str, verb: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ONE.write(tmp_path)
    end = tls.expiry(Path(files["cert"]))
    assert end is not None
    monkeypatch.setattr(checks, "time", SimpleNamespace(time=lambda: end - days * 86400))
    code, lines = run(server={"port": 0, "tls": {"cert": files["cert"], "key": files["key"]}})
    assert code == (level == "error")
    assert any(line.startswith(f"{level}: server.tls: the certificate {files['cert']} {verb} at ") for line in lines)


def test_colours_frame_the_level(run: Run) -> None:
    _, lines = run(Output(color="always"))
    assert lines[0].startswith("\x1b[32mok\x1b[0m: config")
