"""An administrator's command and the systemd unit: credentials, state directory, and what the command may ignore."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from zmsd.commands import unit as units
from zmsd.commands.daemon_client import target
from zmsd.commands.unit import Unit, UnitCredentials, unit_of
from zmsd.config import settings as config
from zmsd.config.partial import only, without_credentials
from zmsd.config.settings import Config
from zmsd.errors import ConfigError

SETTINGS: dict[str, Any] = {
    "mongodb": {"uri_file": "mongodb_uri"},
    "schema": {"file": "schema.json"},
    "server": {"token_file": "token"},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a machine with both units and /etc/zmsd/zmsd.yaml as README.rst recommends."""
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    for name in ("zmsd.service", "zmsd@.service"):
        (folder / name).touch()
    (tmp_path / "etc/zmsd").mkdir()
    (tmp_path / "etc/zmsd/zmsd.yaml").write_text(json.dumps(SETTINGS))
    return tmp_path


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def load(root: Path, *, running: bool = False, settings: Mapping[str, Any] = SETTINGS, **options: Any) -> Config:
    file = root / "etc/zmsd/zmsd.yaml"
    file.write_text(json.dumps(settings))
    unit = unit_of(file, {}, root)
    assert unit is not None
    return config.load(file, {}, credentials=UnitCredentials(unit, running=running), **options)


@pytest.mark.parametrize(
    ("file", "name", "state"),
    [("zmsd.yaml", "zmsd.service", "zmsd"), ("orders.yaml", "zmsd@orders.service", "zmsd-orders")],
)
def test_unit_is_found_by_the_name_of_the_settings_file(file: str, name: str, state: str, root: Path) -> None:
    unit = unit_of(root / "etc/zmsd" / file, {}, root)
    assert unit is not None
    assert unit.name == name
    assert unit.state_directory == root / "var/lib" / state


def test_unit_is_none_for_other_files_and_within_a_unit(root: Path) -> None:
    file = root / "etc/zmsd/zmsd.yaml"
    assert unit_of(root / "zmsd.yaml", {}, root) is None
    assert unit_of(root / "etc/zmsd/schema.json", {}, root) is None
    for variable in ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"):
        assert unit_of(file, {variable: "/x"}, root) is None
    for installed in (root / "etc/systemd/system").iterdir():
        installed.unlink()
    assert unit_of(file, {}, root) is None


def test_credentials_come_from_the_credential_store(root: Path) -> None:
    put(root / "etc/credstore/zmsd.mongodb_uri", "mongodb://h/here\n")
    put(root / "etc/credstore/zmsd.token", "one\n")
    found = load(root)
    assert (found.mongodb.database, found.server.token) == ("here", ("one",))


def test_credentials_of_the_running_daemon_are_preferred_when_querying_it(root: Path) -> None:
    for folder, token in (("etc/credstore/zmsd.", "new"), ("run/credentials/zmsd.service/", "old")):
        put(root / f"{folder}token", token)
        put(root / f"{folder}mongodb_uri", "mongodb://h/db")
    assert load(root).server.token == ("new",)
    assert load(root, running=True).server.token == ("old",)
    unit = Unit("zmsd.service", root)
    assert list(unit.changed(["token", "mongodb_uri", "none"])) == [("token", root / "etc/credstore/zmsd.token")]


def test_commands_have_the_state_of_the_unit_and_ask_the_daemon_with_its_own_token(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "unit_of", partial(unit_of, root=root))
    for folder, token in (("etc/credstore/zmsd.", "new"), ("run/credentials/zmsd.service/", "old")):
        put(root / f"{folder}token", token)
        put(root / f"{folder}mongodb_uri", "mongodb://h/db")
    file = root / "etc/zmsd/zmsd.yaml"
    found = units.load_settings(file, {})
    assert found.watermarks.path == root / "var/lib/zmsd/watermarks.db"
    assert found.server.token == ("new",)
    assert target(None, file, None, {}).token == "old"


def test_credentials_come_from_where_the_unit_loads_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return LoadCredential= with a path, as systemd reports it, with drop-ins."""
    loaded = {"mongodb_uri": "/etc/zmsd/uri", "token": "elsewhere", "server.key": "/etc/ssl/zmsd.key"}
    monkeypatch.setattr(units, "_load_credential", lambda name: loaded)
    put(root / "etc/zmsd/uri", "mongodb://h/there")
    put(root / "usr/lib/credstore/elsewhere", "two")
    put(root / "etc/ssl/zmsd.key", "key")
    put(root / "etc/zmsd/server.crt", "cert")
    server = {"token_file": "token", "tls": {"cert": "server.crt", "key": "server.key"}}
    found = load(root, settings=SETTINGS | {"server": server})
    assert (found.mongodb.database, found.server.token) == ("there", ("two",))
    assert found.server.tls is not None
    assert found.server.tls.key == root / "etc/ssl/zmsd.key"
    assert found.server.tls.cert == root / "etc/zmsd/server.crt", "not a credential: beside the settings"


def test_error_of_a_missing_credential_names_it_and_its_paths(root: Path) -> None:
    put(root / "etc/credstore/zmsd.mongodb_uri", "mongodb://h/db")
    with pytest.raises(ConfigError) as caught:
        load(root)
    (fault,) = caught.value.issues
    assert fault.key == "server.token_file"
    assert fault.reason.startswith(f"{root}/etc/zmsd/token cannot be read: No such file or directory; ")
    assert f"there is no credential token either ({root}/run/credentials/zmsd.service/token, " in fault.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_error_of_a_credential_readable_by_root_only_names_root(root: Path) -> None:
    with pytest.raises(ConfigError, match="only root may read these"):
        load(root)


def test_error_of_a_missing_credential_within_the_unit_names_its_directory(root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(root / "etc/zmsd/zmsd.yaml", {"CREDENTIALS_DIRECTORY": "/run/credentials/zmsd.service"})
    reasons = [fault.reason for fault in caught.value.issues]
    assert all("there is no credential" in reason for reason in reasons)
    assert all("(/run/credentials/zmsd.service)" in reason for reason in reasons)


def test_command_needs_only_the_settings_that_it_uses(root: Path) -> None:
    put(root / "etc/credstore/zmsd.token", "one")
    wrong = SETTINGS | {"feed": {"heartbeat": -1}, "nats": {"creds": "none"}}
    assert load(root, settings=wrong, concerns=only("server.port", "server.token_file")).server.token == ("one",)
    assert load(root, settings=wrong, concerns=only("watermarks")).watermarks.storage == "sqlite"
    with pytest.raises(ConfigError, match=r"nats\.creds"):
        load(root, settings=wrong, concerns=only("nats"))
    with pytest.raises(ConfigError, match=r"server\.port"):
        load(root, settings=wrong | {"server": {"port": -1}}, concerns=only("server.port"))


def test_check_before_a_reload_does_not_read_credentials(root: Path) -> None:
    tls = {"tls": {"cert": "none", "key": "none"}}
    settings = SETTINGS | {"server": SETTINGS["server"] | tls, "nats": {"creds": "none"}}
    load(root, settings=settings, concerns=without_credentials())
    with pytest.raises(ConfigError) as caught:
        load(root, settings=settings | {"feed": {"heartbeat": -1}}, concerns=without_credentials())
    assert [fault.key for fault in caught.value.issues] == ["feed.heartbeat"]
