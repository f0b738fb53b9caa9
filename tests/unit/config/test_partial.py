"""Parts of the settings: the log section of a wrong file, and what one command needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zmsd.config import settings as config
from zmsd.config.partial import credentials_in_use, load_log, only, without_credentials
from zmsd.config.settings import load


def test_log_environment_holds_for_errors_in_settings(tmp_path: Path) -> None:
    (tmp_path / "zmsd.yaml").write_text("log: {level: debug}\nnonsense: 1\n")
    environ = {"LOG_FORMAT": "json"}
    assert load_log(tmp_path / "zmsd.yaml", environ) == config.LogConfig("debug", "json")
    assert load_log(tmp_path / "absent.yaml", environ) == config.LogConfig("info", "json")


def test_log_section_that_is_wrong_has_its_defaults(tmp_path: Path) -> None:
    for text in ("log: 5\n", "log: {level: loud, format: json}\n", "a: b: c"):
        (tmp_path / "zmsd.yaml").write_text(text)
        found = load_log(tmp_path / "zmsd.yaml", {})
        assert found.level == "info"
        assert found.format == ("json" if "json" in text else "text"), "one error does not hide the other setting"


def test_command_concerns_its_settings_and_what_is_around_them() -> None:
    concerns = only("nats", "server.port")
    for path in ((), ("nats",), ("nats", "servers", 0), ("server",), ("server", "port")):
        assert concerns(path), path
    for path in (("server", "host"), ("mongodb",), ("mongodb", "uri")):
        assert not concerns(path), path


def test_file_that_may_be_a_credential_does_not_concern_other_processes() -> None:
    concerns = without_credentials()
    assert not concerns(("mongodb", "uri_file"))
    assert not concerns(("server", "token_file"))
    assert concerns(("mongodb", "uri"))
    assert concerns(("mongodb",))


def test_credentials_of_systemd_in_use_are_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    file = tmp_path / "zmsd.yaml"
    file.write_text("mongodb: {uri: 'mongodb://127.0.0.1/db'}\nschema: {file: s.json}\nserver: {token_file: token}\n")
    settings = load(file, {})
    assert credentials_in_use(settings) == (), "a file beside the settings"
    server = replace(settings.server, token_file=Path("/run/credentials/zmsd.service/token"))
    assert credentials_in_use(replace(settings, server=server)) == ("token",)
