from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from tests.unit.config.conftest import LEAST, Load
from zmsd.config import settings as config
from zmsd.config.reader import kind
from zmsd.config.settings import Config, DocumentLocation, MongodbConfig, NatsConfig, ServerConfig, TlsConfig
from zmsd.errors import ConfigError
from zmsd.schema.catalog import load_catalog
from zmsd.schema.fetch import NotModified, fetch

ETC = Path(__file__).resolve().parents[3] / "etc"
ENVIRONMENT = {"MONGODB_URI": "mongodb://127.0.0.1/db", "SCHEMA_FILE": "schema.json"}


def test_minimal_settings_get_the_defaults(load: Load, tmp_path: Path) -> None:
    found = load()
    assert found.mongodb == MongodbConfig("mongodb://127.0.0.1/db", None, "db")
    assert found.schema == DocumentLocation(tmp_path / "schema.json")
    assert found.mappings is None
    assert found.server == ServerConfig("127.0.0.1", 3000, (), None, None, 64, 16, False)
    assert found.feed == config.FeedConfig("auto", "auto", 60.0, 4)
    assert found.watermarks == config.WatermarksConfig("sqlite", tmp_path / "watermarks.db")
    assert found.nats == NatsConfig((), "zero-watermarks", None, None, None)
    assert found.log == config.LogConfig("info", "text")
    assert found.zero == config.ZeroConfig(None, None, None)


def test_all_settings_are_read(load: Load, tmp_path: Path) -> None:
    for name in ("cert", "key", "creds"):
        (tmp_path / name).touch()
    found = load(
        mongodb={"uri": "mongodb://u:p@h1,h2/x?replicaSet=rs0&authSource=admin", "database": "db"},
        schema={"url": "https://h/s?key=1", "headers": {"Authorization": "Bearer secret"}, "refresh": 30},
        mappings={"url": "http://h:8080/m"},
        server={
            "host": "0.0.0.0",
            "port": 0,
            "token": ["one", "two"],
            "tls": {"cert": "cert", "key": str(tmp_path / "key")},
            "max_sessions": 1,
            "max_sessions_per_address": 2,
            "allow_anonymous": True,
        },
        zero={"permissions": {"file": "p.json"}, "clients_collection": "c", "mutations_collection": "m"},
        feed={"scope": "database", "images": "off", "heartbeat": 0.5 + 1, "catch_up": 1},
        watermarks={"storage": "nats-kv", "path": "/var/w.db"},
        nats={"servers": "nats://h", "bucket": "b", "user": "u", "password": "p", "creds": "creds"},
        log={"level": "debug", "format": "json"},
    )
    assert found.mongodb.database == "db"
    assert found.schema == DocumentLocation(None, "https://h/s?key=1", {"Authorization": "Bearer secret"}, 30.0)
    assert found.schema.name == "https://h/s?…"
    assert found.mappings == DocumentLocation(url="http://h:8080/m")
    tls = TlsConfig(tmp_path / "cert", tmp_path / "key")
    assert found.server == ServerConfig("0.0.0.0", 0, ("one", "two"), None, tls, 1, 2, True)
    assert found.zero == config.ZeroConfig(DocumentLocation(tmp_path / "p.json"), "c", "m")
    assert found.feed == config.FeedConfig("database", "off", 1.5, 1)
    assert found.watermarks == config.WatermarksConfig("nats-kv", Path("/var/w.db"))
    assert found.nats == NatsConfig(("nats://h",), "b", "u", "p", tmp_path / "creds")
    assert found.log == config.LogConfig("debug", "json")


def test_repr_shows_no_secret(load: Load) -> None:
    found = load(
        mongodb={"uri": "mongodb://u:SECRET@h/db"},
        schema={"url": "http://h/s?k=SECRET", "headers": {"X": "SECRET"}},
        server={"token": "SECRET"},
        nats={"servers": ["nats://SECRET@h"], "password": "SECRET"},
    )
    assert "SECRET" not in repr(found)
    assert "SECRET" not in found.schema.name


def test_json_settings_equal_yaml_settings(tmp_path: Path, load: Load) -> None:
    file = tmp_path / "zmsd.json"
    file.write_text(json.dumps({**LEAST, "server": {"port": 4000}}))
    assert config.load(file, {}) == load(server={"port": 4000})


def test_key_without_value_has_its_default(load: Load) -> None:
    text = "mongodb: {uri: mongodb://h/db, database: }\nschema: {file: s}\nmappings:\nserver:\n  # port: 1\nfeed: ~\n"
    assert load(text).server == ServerConfig()


def test_all_errors_are_reported_with_positions(faults_of: Callable[..., list[str]], tmp_path: Path) -> None:
    text = """\
mongodb:
  uri: mongodb://h/db
  databse: x
schema: [s.json]
mappings: {}
server:
  port: "3000"
  token: 12345
  max_sessions: true
  tls: {cert: none.pem}
feed:
  images: on
  heartbeat: .inf
  catch_up: 0
watermark: {}
nats:
  servers: [nats://h, 5]
"""
    assert faults_of(text, positions=True) == [
        "3:3: mongodb.databse: unknown setting; did you mean database?",
        "4:1: schema: must be an object, got a list",
        "5:1: mappings: give file, url or tables",
        "7:3: server.port: must be a whole number from 0 to 65535, got '3000'",
        "8:3: server.token: must be text (in quotes), got a number",
        "9:3: server.max_sessions: must be a whole number of at least 1, got True",
        "10:3: server.tls.key: is required",
        f"10:9: server.tls.cert: {tmp_path}/none.pem cannot be read: No such file or directory",
        "12:3: feed.images: must be one of auto, required, off, got 'on'",
        "13:3: feed.heartbeat: must be a number from 1 to 86400, got inf",
        "14:3: feed.catch_up: must be a whole number of at least 1, got 0",
        "15:1: watermark: unknown setting; did you mean watermarks?",
        "17:23: nats.servers[1]: must be text (in quotes), got a number",
    ]


@pytest.mark.parametrize(
    ("sections", "issue"),
    [
        ({"server": 5}, "server: must be an object, got a number"),
        ({"mongodb": "mongodb://u:SECRET@h/db"}, "mongodb: must be an object, got text"),
        ({"schema": "https://h/s?key=SECRET"}, "schema: must be an object, got text"),
        ({"schema": {"url": "http://h", "headers": "SECRET"}}, "schema.headers: must be an object, got text"),
        ({"nats": "nats://u:SECRET@h"}, "nats: must be an object, got text"),
        ({"server": {"port": 65536}}, "server.port: must be a whole number from 0 to 65535, got 65536"),
        ({"server": {"port": 1.5}}, "server.port: must be a whole number from 0 to 65535, got 1.5"),
        ({"server": {"port": True}}, "server.port: must be a whole number from 0 to 65535, got True"),
        ({"server": {"allow_anonymous": 1}}, "server.allow_anonymous: must be true or false, got 1"),
        ({"server": {"host": ""}}, "server.host: must not be empty"),
        ({"server": {"host": "a\nb"}}, "server.host: contains an unprintable character"),
        ({"server": {"token": "a b"}}, "server.token: a token is ASCII without blanks"),
        ({"server": {"token": ["a", ""]}}, "server.token[1]: must not be empty"),
        (
            {"server": {"zzz": 1}},
            "server.zzz: unknown setting; known: host, port, token, token_file, tls, max_sessions, "
            "max_sessions_per_address, allow_anonymous",
        ),
        ({"feed": {"heartbeat": 10**40}}, f"feed.heartbeat: must be a number from 1 to 86400, got {10**40}"),
        ({"feed": {"scope": ["collection"]}}, "feed.scope: must be one of auto, collection, database, got a list"),
        ({"log": {"level": "trace"}}, "log.level: must be one of debug, info, warning, error, got 'trace'"),
        ({"schema": {"file": "s", "url": "http://h"}}, "schema: give file, url or tables, not file and url"),
        ({"schema": {}}, "schema: give file, url or tables"),
        ({"schema": {"file": "s", "refresh": 5}}, "schema.refresh: goes with url only"),
        ({"schema": {"file": "s", "headers": {"a": "b"}}}, "schema.headers: goes with url only"),
        ({"schema": {"url": "ftp://h/s"}}, "schema.url: must be an http or https URL, percent-encoded"),
        ({"schema": {"url": "http:///s"}}, "schema.url: must be an http or https URL, percent-encoded"),
        ({"schema": {"url": "http://h:x/s"}}, "schema.url: must be an http or https URL, percent-encoded"),
        ({"schema": {"url": "http://h/ü"}}, "schema.url: must be an http or https URL, percent-encoded"),
        ({"schema": {"url": "http://h/a b"}}, "schema.url: must be an http or https URL, percent-encoded"),
        (
            {"zero": {"permissions": {"url": "http://u:SECRET@h/s"}}},
            "zero.permissions.url: must not hold a user or password; send headers: {Authorization: …}",
        ),
        (
            {"schema": {"url": "http://h", "headers": {"a b": "SECRET"}}},
            "schema.headers.a b: is not a valid HTTP header",
        ),
        (
            {"schema": {"url": "http://h", "headers": {"a": "SECRET\r\nb: c"}}},
            "schema.headers.a: contains an unprintable character",
        ),
        (
            {"schema": {"url": "http://h", "headers": {"a": 5}}},
            "schema.headers.a: must be text (in quotes), got a number",
        ),
        (
            {"zero": {"clients_collection": "a$"}},
            "zero.clients_collection: not a name that MongoDB takes for a collection: 'a$': it has '$' in it",
        ),
        ({"watermarks": {"storage": "nats-kv"}}, "nats.servers: is required by watermarks.storage: nats-kv"),
        (
            {"nats": {"servers": ["http://SECRET"]}},
            "nats.servers: a server is nats://HOST:PORT (or tls://, ws://, wss://)",
        ),
        ({"mongodb": {}}, "mongodb.uri: is required"),
        ({"mongodb": {"uri": "mongodb://h/a", "uri_file": "f"}}, "mongodb.uri: give uri or uri_file, not both"),
        (
            {"mongodb": {"uri": "mongodb://h/a", "database": "x/y"}},
            "mongodb.database: not a name that MongoDB takes for a database: it has '/' in it",
        ),
    ],
)
def test_invalid_setting_is_an_error(faults_of: Callable[..., list[str]], sections: dict[str, Any], issue: str) -> None:
    assert faults_of(**sections) == [issue]


@pytest.mark.parametrize("section", ["mongodb", "schema", "server", "zero", "feed", "watermarks", "nats", "log"])
@pytest.mark.parametrize("value", [5, "x", [], True])
def test_section_that_is_not_an_object_is_an_error(
    faults_of: Callable[..., list[str]], section: str, value: Any
) -> None:
    """The value is not shown: it may be a URI with a password."""
    assert faults_of(**{section: value}) == [f"{section}: must be an object, got {kind(value)}"]


@pytest.mark.parametrize("text", ["mongodb: {mongodb://u:SECRET@h/db}", "mongodb://u:SECRET@h/db: ~"])
def test_uri_written_as_a_key_is_not_shown(faults_of: Callable[..., list[str]], text: str) -> None:
    issues = faults_of(f"{text}\nschema: {{file: s}}\n", positions=True)
    assert any(re.search(r"^1:\d+: (mongodb\.)?…: unknown setting; ", issue) for issue in issues)
    assert "SECRET" not in "".join(issues)


def test_secrets_are_read_from_files_and_credentials(load: Load, tmp_path: Path) -> None:
    (tmp_path / "uri").write_text("mongodb://h/here\n")
    (tmp_path / "token").write_text("one\n\n  two \n")
    sections = {"mongodb": {"uri_file": "uri"}, "server": {"host": "::", "token_file": "token"}}
    found = load(**sections)
    assert (found.mongodb.uri, found.mongodb.database) == ("mongodb://h/here", "here")
    assert found.server.token == ("one", "two")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "uri").write_text("mongodb://h/there")
    found = load(environ={"CREDENTIALS_DIRECTORY": str(credentials)}, **sections)
    assert found.mongodb.database == "there"
    assert found.server.token == ("one", "two"), "not among the credentials: beside the settings"


def test_store_is_in_the_state_directory_of_systemd(load: Load, tmp_path: Path) -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/zmsd"}
    assert load(environ=environ).watermarks.path == Path("/var/lib/zmsd/watermarks.db")
    assert load(environ={"STATE_DIRECTORY": "/a:/b"}).watermarks.path == Path("/a/watermarks.db")
    assert load(environ={"STATE_DIRECTORY": ""}).watermarks.path == tmp_path / "watermarks.db"
    assert load(environ=environ, watermarks={"path": "w.db"}).watermarks.path == tmp_path / "w.db", "it was said"
    assert config.load(None, ENVIRONMENT | environ).watermarks.path == Path("/var/lib/zmsd/watermarks.db")


def test_unusable_secret_files_are_errors(faults_of: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    issues = faults_of(mongodb={"uri_file": "none"}, server={"host": "::", "token_file": "empty"})
    assert issues == [
        f"mongodb.uri_file: {tmp_path}/none cannot be read: No such file or directory",
        f"server.token_file: {tmp_path}/empty is empty",
    ]
    (tmp_path / "none").write_bytes(b"\xff")
    text = "mongodb:\n  uri_file: none\nschema: {file: s}\nserver:\n  token_file: empty\n"
    assert faults_of(text, positions=True) == [
        f"2:3: mongodb.uri_file: {tmp_path}/none is not UTF-8 text",
        f"5:3: server.token_file: {tmp_path}/empty is empty",
    ]
    issues = faults_of(server={"token": "a", "token_file": "none"})
    assert "server.token_file: give token or token_file, not both" in issues


def test_error_does_not_hide_others_of_its_section(faults_of: Callable[..., list[str]]) -> None:
    text = """\
mongodb:
  uri: mongodb://h:99999/db
  database: 5
schema:
  url: ftp://h
  refresh: soon
  headers: {a: 5, b c: d}
mappings:
  file: m.json
  refresh: 5
  heders: {}
server:
  host: 10.0.0.1
  max_sessions: 0
zero:
  permissions:
    file: p.json
    url: http://h
    refresh: 0
nats:
  bucket: a b
  replicas: 9
watermarks:
  storage: nats-kv
  pth: w.db
"""
    assert faults_of(text, positions=True) == [
        "2:3: mongodb.uri: Port must be an integer between 0 and 65535",
        "3:3: mongodb.database: must be text (in quotes), got 5",
        "5:3: schema.url: must be an http or https URL, percent-encoded",
        "6:3: schema.refresh: must be a number from 1 to 86400, got 'soon'",
        "7:13: schema.headers.a: must be text (in quotes), got a number",
        "7:19: schema.headers.b c: is not a valid HTTP header",
        "10:3: mappings.refresh: goes with url only",
        "11:3: mappings.heders: unknown setting; did you mean headers?",
        "12:1: server.token: is required, for other machines can reach 10.0.0.1 (or set server.allow_anonymous: true)",
        "14:3: server.max_sessions: must be a whole number of at least 1, got 0",
        "16:3: zero.permissions: give file, url or tables, not file and url",
        "19:5: zero.permissions.refresh: must be a number from 1 to 86400, got 0",
        "20:1: nats.servers: is required by watermarks.storage: nats-kv",
        "21:3: nats.bucket: is made of letters, digits, _ and -",
        "22:3: nats.replicas: must be a whole number from 1 to 5, got 9",
        "25:3: watermarks.pth: unknown setting; did you mean path?",
    ]


def test_settings_from_the_environment_alone_suffice() -> None:
    found = config.load(
        None,
        {
            **ENVIRONMENT,
            "TABLE_MAPPINGS_URL": "http://h/m",
            "PORT": "3001",
            "WATERMARK_STORAGE": "zqlite",
            "WATERMARK_DB_PATH": "./data/watermarks.db",
            "NATS_SERVERS": "nats://a:4222, nats://b",
            "NATS_BUCKET": "bucket",
            "NODE_ENV": "production",
        },
    )
    assert found.mongodb.uri == "mongodb://127.0.0.1/db"
    assert found.schema == DocumentLocation(Path("schema.json"))
    assert found.mappings == DocumentLocation(url="http://h/m")
    assert found.server.port == 3001
    assert found.watermarks == config.WatermarksConfig("sqlite", Path("data/watermarks.db"))
    assert found.nats == NatsConfig(("nats://a:4222", "nats://b"), "bucket")
    assert config.load(None, ENVIRONMENT).watermarks.path == Path("watermarks.db")


def test_environment_overrides_the_file(load: Load, tmp_path: Path) -> None:
    sections = {
        "mongodb": {"uri_file": "none"},
        "schema": {"url": "http://h", "headers": {"a": "b"}, "refresh": 5},
        "mappings": {"file": "m.json"},
        "server": {"port": 1, "max_sessions": 2},
        "watermarks": {"path": "w.db"},
    }
    environ = {**ENVIRONMENT, "TABLE_MAPPINGS_URL": "http://h/m", "PORT": "2", "NATS_BUCKET": ""}
    found = load(environ=environ, **sections)
    assert found.mongodb.database == "db"
    assert found.schema == DocumentLocation(Path("schema.json")), "relative to the working directory"
    assert found.mappings == DocumentLocation(url="http://h/m")
    assert (found.server.port, found.server.max_sessions) == (2, 2)
    assert found.watermarks.path == tmp_path / "w.db", "relative to the file"
    assert found.nats.bucket == "zero-watermarks", "an empty variable is none"
    other = load(environ={"SCHEMA_URL": "http://other"}, **{**sections, "mongodb": LEAST["mongodb"]})
    assert other.schema == DocumentLocation(None, "http://other", {"a": "b"}, 5.0)


@pytest.mark.parametrize(
    ("environ", "issue"),
    [
        ({"PORT": "http"}, "environment: PORT: must be a whole number from 0 to 65535, got 'http'"),
        ({"PORT": "99999"}, "environment: PORT: must be a whole number from 0 to 65535, got 99999"),
        ({"PORT": "-1"}, "environment: PORT: must be a whole number from 0 to 65535, got '-1'"),
        ({"WATERMARK_STORAGE": "redis"}, "environment: WATERMARK_STORAGE: must be one of sqlite, nats-kv, got 'redis'"),
        ({"NATS_SERVERS": "nats://a,,"}, "environment: NATS_SERVERS: must not be empty"),
        ({"SCHEMA_URL": "x"}, "environment: SCHEMA_URL: must be an http or https URL, percent-encoded"),
        (
            {"MONGODB_URI": "mongodb://localhost:27017"},
            "environment: MONGODB_URI: names no database: end it with /DATABASE, or set mongodb.database",
        ),
        (
            {"TABLE_MAPPINGS_FILE": "a", "TABLE_MAPPINGS_URL": "http://b"},
            "environment: TABLE_MAPPINGS_FILE: TABLE_MAPPINGS_URL is set too; unset one of them",
        ),
    ],
)
def test_invalid_environment_variable_is_an_error(environ: dict[str, str], issue: str, tmp_path: Path) -> None:
    file = tmp_path / "zmsd.yaml"
    file.write_text(yaml.safe_dump(LEAST))
    with pytest.raises(ConfigError) as caught:
        config.load(file, environ)
    assert issue in list(map(str, caught.value.issues))
    assert len({issue.key for issue in caught.value.issues}) == 1


def test_environment_does_not_hide_an_invalid_section(faults_of: Callable[..., list[str]]) -> None:
    assert faults_of(server=5, environ={"PORT": "1"}) == ["server: must be an object, got a number"]


def test_missing_file_and_environment_are_reported(default_file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(None, {})
    assert list(map(str, caught.value.issues)) == [
        f"environment: MONGODB_URI: is required (there is no {default_file} either)",
        f"environment: SCHEMA_FILE: give file, url or tables (there is no {default_file} either)",
    ]


def test_default_file_is_read(default_file: Path) -> None:
    default_file.parent.mkdir()
    default_file.write_text(yaml.safe_dump({**LEAST, "server": {"port": 5}}))
    assert config.load(None, {}).server.port == 5
    default_file.unlink()
    default_file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(None, ENVIRONMENT)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", ": is empty"),
        (b"# only this\n", ": is empty"),
        (b"- a\n- b\n", ":1:1: must be an object of settings, not a list"),
        (b"text", ":1:1: must be an object of settings, not text"),
        (b"a: [1\n", ":2:1: not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        (b"mongodb: {}\nmongodb: {}\n", ":2:1: mongodb: is given twice"),
        (b"mongodb:\n  uri: \xff\n", ":2:8: is not UTF-8 text"),
        (None, ": cannot be read: No such file or directory"),
    ],
)
def test_file_without_settings_is_an_error(tmp_path: Path, raw: bytes | None, expected: str) -> None:
    file = tmp_path / "zmsd.yaml"
    if raw is not None:
        file.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        config.load(file, {})
    assert str(caught.value) == f"{file}{expected}"


def settings(cls: Any, path: str = "") -> list[str]:
    """Yield every setting, dotted; for a document location: file, url, headers and refresh."""
    found = []
    for entry in fields(cls):
        hint = get_type_hints(cls)[entry.name]
        inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        found += settings(inner, f"{path}{entry.name}.") if inner else [f"{path}{entry.name}"]
    return found


def test_example_shows_all_settings_at_their_defaults() -> None:
    text = (ETC / "zmsd.yaml").read_text()
    for section in text.split("\n\n"):
        top = re.search(r"^(\w+):$", section, re.MULTILINE)
        if top:
            names = [name for name in settings(Config) if name.startswith(f"{top[1]}.") and "permissions." not in name]
            missing = [name for name in names if not re.search(rf"\b{name.rpartition('.')[2]}: ", section)]
            assert not missing
    found = config.load(ETC / "zmsd.yaml", {})
    for name in ("server", "zero", "feed", "nats", "log"):
        assert getattr(found, name) == getattr(Config(), name)


def test_example_loads_unchanged() -> None:
    found = config.load(ETC / "zmsd.yaml", {})
    assert found.mappings is not None
    schema, mappings = fetch(found.schema), fetch(found.mappings)
    assert not isinstance(schema, NotModified)
    assert not isinstance(mappings, NotModified)
    catalog = load_catalog(schema.document, mappings.document)
    assert catalog.collections == ("messages", "rooms", "users")
    assert [table.name for table in catalog.by_collection["messages"]] == [
        "userMessage",
        "systemMessage",
        "imageMessage",
    ]
    assert not catalog.warnings
    assert all(table.mapping.plain for table in catalog.tables)


def test_inline_tables_give_way_to_environment(load: Load, tmp_path: Path) -> None:
    tables = {"tables": {"item": {}}}
    assert load(schema=tables).schema.name == str(tmp_path / "zmsd.yaml")
    assert load(schema=tables, environ={"SCHEMA_FILE": "other.json"}).schema == DocumentLocation(Path("other.json"))
    assert load(schema=tables, environ={"SCHEMA_URL": "http://h/s"}).schema == DocumentLocation(url="http://h/s")


def test_environment_alone_serves_other_hosts() -> None:
    more = {"HOST": "0.0.0.0", "AUTH_TOKEN": "a,b", "LOG_LEVEL": "warn", "LOG_FORMAT": "json"}
    found = config.load(None, {**ENVIRONMENT, **more})
    assert (found.server.host, found.server.token) == ("0.0.0.0", ("a,b",)), "a token may have a comma"
    assert found.log == config.LogConfig("warning", "json")


def test_auth_token_under_both_names(load: Load, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("old")
    server = {"token_file": "tokens"}
    assert load(server=server, environ={"ZERO_AUTH_TOKEN": "new"}).server.token == ("new",)
    same = {"AUTH_TOKEN": "secret", "ZERO_AUTH_TOKEN": "secret"}
    assert load(server=server, environ=same).server.token == ("secret",)
    with pytest.raises(ConfigError) as caught:
        load(server=server, environ={**same, "ZERO_AUTH_TOKEN": "other"})
    issue = "environment: AUTH_TOKEN: ZERO_AUTH_TOKEN is set too, to another value; unset one of them"
    assert str(caught.value) == issue


def test_foreign_variables_named() -> None:
    assert config.ignored_variables({"NODE_ENV": "production", "CONFIG_FILE": "", "PORT": "1"}) == ("NODE_ENV",)
