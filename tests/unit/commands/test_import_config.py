"""What ``zmsd import`` makes of a config.yml of zero-sources, in each of its forms."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from zmsd.commands.import_config import import_config, settings_text, translated
from zmsd.config.document import parse
from zmsd.config.settings import load
from zmsd.errors import ConfigError, ZmsdError
from zmsd.schema.loading import load_documents

COLUMNS = {"_id": {"pos": 1, "dataType": "text", "notNull": True}, "n": {"pos": 2, "dataType": "numeric"}}
EXPORTED = {"version": "1", "tables": [{"schema": "public", "name": "chat", "columns": COLUMNS, "primaryKey": ["_id"]}]}
MAPPINGS = {"version": "1", "mappings": {"chat": {"source": "rooms", "filter": {"t": "d"}}}}
URI = "mongodb://u:geheim@127.0.0.1/chat"
OF_FILES = {
    "db": {"uri": URI, "db": "chat", "publish": ["rooms", "users"]},
    "zero": {"auth": {"token": "t0ken"}, "kv": {"provider": "zqlite", "zqlite": {"file": "./kv.sqlite"}}},
    "schema": {"source": "file", "schemaFile": "./s.json", "tableMappingsFile": "./m.json"},
}


def write(directory: Path, config: Any) -> Path:
    (directory / "s.json").write_text(json.dumps(EXPORTED))
    (directory / "m.json").write_text(json.dumps(MAPPINGS))
    file = directory / "config.yml"
    file.write_text(yaml.safe_dump(config))
    return file


def notes(config: Any) -> list[str]:
    return [str(note) for note in translated(parse(yaml.safe_dump(config), "config.yml", kind="yaml")).notes]


def test_import_of_files_writes_settings_and_documents_that_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert import_config(write(tmp_path, OF_FILES), out, False) == 0
    settings = load(out / "zmsd.yaml", {})
    assert (settings.mongodb.uri, settings.mongodb.database) == (URI, "chat")
    assert (settings.server.host, settings.server.token) == ("0.0.0.0", ("t0ken",))
    assert settings.watermarks.storage == "sqlite"
    assert load_documents(settings).catalog.collections == ("rooms",)
    assert stat.S_IMODE((out / "zmsd.yaml").stat().st_mode) == 0o600
    printed = capsys.readouterr().out
    assert "publish[1]: no table is read from users" in printed
    assert "change ZERO_UPSTREAM_DB" in printed
    assert "drop chat.streamer_shards" in printed
    assert "t0ken" not in printed
    assert "geheim" not in printed


def test_import_overwrites_only_with_force(tmp_path: Path) -> None:
    file = write(tmp_path, OF_FILES)
    import_config(file, tmp_path, False)
    import_config(file, tmp_path, False)  # the same files again
    (tmp_path / "zmsd.yaml").write_text("mine: 1\n")
    with pytest.raises(ZmsdError, match=r"zmsd\.yaml exists already: give another --out, or --force"):
        import_config(file, tmp_path, False)
    assert (tmp_path / "zmsd.yaml").read_text() == "mine: 1\n"
    import_config(file, tmp_path, True)
    assert load(tmp_path / "zmsd.yaml", {}).mongodb.uri == URI


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (
            {"source": "url", "schemaUrl": "http://a/api/schema/export", "tableMappingsUrl": "http://a/m"},
            {"schema": {"url": "http://a/api/schema/export"}, "mappings": {"url": "http://a/m"}},
        ),
        (
            {"source": "inline", "inlineSchema": EXPORTED, "inlineTableMappings": MAPPINGS["mappings"]},
            {"schema": {"file": "schema.json"}, "mappings": {"file": "mappings.json"}},
        ),
        ({"source": "inline", "tables": EXPORTED["tables"]}, {"schema": {"file": "schema.json"}}),
    ],
)
def test_each_source_of_documents_is_imported(section: Any, expected: Any) -> None:
    found = translated(parse(yaml.safe_dump({**OF_FILES, "schema": section}), "config.yml", kind="yaml"))
    assert {name: found.settings[name] for name in ("schema", "mappings") if name in found.settings} == expected
    assert sorted(found.documents) == sorted(part["file"] for part in expected.values() if "file" in part)


def test_nats_and_settings_at_the_top_are_imported() -> None:
    config = {
        "auth": {"token": "x"},
        "db": {"uri": "mongodb://h/shards", "db": "data"},
        "kv": {"provider": "nats", "nats": {"servers": ["nats://h:4222"], "auth": {"user": "u", "pwd": "p"}}},
    }
    found = translated(parse(yaml.safe_dump(config), "config.yml", kind="yaml"))
    assert found.settings == {
        "mongodb": {"uri": "mongodb://h/shards", "database": "data"},
        "schema": {"file": "schema.json"},
        "server": {"host": "0.0.0.0", "token": "x"},
        "watermarks": {"storage": "nats-kv"},
        "nats": {"servers": ["nats://h:4222"], "user": "u", "password": "p"},
    }
    assert yaml.safe_load(settings_text(found.settings, "config.yml")) == found.settings
    assert any("names no schema" in note for note in notes(config))
    assert any("drop shards.streamer_shards" in note for note in notes(config))


def test_settings_without_a_counterpart_are_listed_without_their_values() -> None:
    found = notes(
        {**OF_FILES, "auth": {"jwt": {"secret": "hidden"}}, "schema": {"source": "url", "schemaUrl": "http://a"}}
    )
    assert [note for note in found if "auth.jwt.secret: zmsd has no such setting" in note]
    assert "hidden" not in "".join(found)


def test_errors_in_documents_are_listed_after_the_files_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, OF_FILES)
    (tmp_path / "m.json").write_text(json.dumps({"other": {"source": "rooms"}}))
    assert import_config(file, tmp_path / "out", False) == 1
    assert "mappings.json:1:2: other: the schema has no such table" in capsys.readouterr().out
    assert (tmp_path / "out/zmsd.yaml").exists()


@pytest.mark.parametrize("text", ["mongodb: {uri: x}\n", "a: 1\n", "[]\n"])
def test_import_of_another_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"is not a config\.yml of zero-sources"):
        import_config(file, tmp_path, False)


def test_missing_document_is_named_before_anything_is_written(tmp_path: Path) -> None:
    file = write(tmp_path, OF_FILES)
    (tmp_path / "m.json").unlink()
    with pytest.raises(ConfigError, match=r"m\.json: cannot be read"):
        import_config(file, tmp_path / "out", False)
    assert not (tmp_path / "out").exists()
