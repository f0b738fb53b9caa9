"""The settings: one tree of frozen dataclasses, read from a YAML or JSON file and the environment.

`load` is the only way in, at start, on reload and for ``zmsd check`` alike: it gives a whole, valid Config or raises
one ConfigError with every error. Defaults stand in the dataclasses and nowhere else; two Configs compare with ``==``.
"""

from __future__ import annotations

import ipaddress
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from zmsd.config import document as documents
from zmsd.config import mongodb_uri
from zmsd.config.document import ConfigDocument, KeyPath
from zmsd.config.mongodb_names import collection_problem, database_problem
from zmsd.config.reader import Credentials, Reader, Variables, kind, setting
from zmsd.errors import MAX_ISSUES, ConfigError

DEFAULT_FILE = Path("/etc/zmsd/zmsd.yaml")


@dataclass(frozen=True, slots=True)
class MongodbConfig:
    uri: str = setting("", secret=True)
    uri_file: Path | None = setting(None, credential=True)
    database: str = setting("", unprintable=True)


@dataclass(frozen=True, slots=True)
class DocumentLocation:
    """Where a document is: a file, or a URL with the headers to send and the seconds between looks at it."""

    file: Path | None = None
    url: str | None = setting(None, secret=True)  # a query may hold a key
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, metadata={"secret": True})
    refresh: float | None = setting(None, low=1, high=86400)

    @property
    def name(self) -> str:
        """The file, or the URL without its query, to show to people."""
        if self.url is None:
            return str(self.file)
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}" + ("?…" if parts.query else "")


@dataclass(frozen=True, slots=True)
class TlsConfig:
    cert: Path = setting(MISSING, readable=True, credential=True)
    key: Path = setting(MISSING, readable=True, credential=True)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    host: str = "127.0.0.1"
    port: int = setting(3000, low=0, high=65535)  # 0: any free one
    token: tuple[str, ...] = setting((), secret=True)
    token_file: Path | None = setting(None, credential=True)
    tls: TlsConfig | None = None
    max_sessions: int = setting(64, low=1)
    max_sessions_per_address: int = setting(16, low=1)
    allow_anonymous: bool = False


@dataclass(frozen=True, slots=True)
class ZeroConfig:
    permissions: DocumentLocation | None = None
    clients_collection: str | None = setting(None, unprintable=True)
    mutations_collection: str | None = setting(None, unprintable=True)


@dataclass(frozen=True, slots=True)
class FeedConfig:
    scope: Literal["auto", "collection", "database"] = "auto"
    images: Literal["auto", "required", "off"] = "auto"
    heartbeat: float = setting(60.0, low=1, high=86400)  # seconds
    catch_up: int = setting(4, low=1)  # private feeds at once
    lag_report: float = setting(30.0, low=1, high=86400)  # seconds


@dataclass(frozen=True, slots=True)
class WatermarksConfig:
    storage: Literal["sqlite", "nats-kv"] = setting("sqlite", same={"zqlite": "sqlite"})
    path: Path = setting(Path("watermarks.db"), state=True)


@dataclass(frozen=True, slots=True)
class NatsTlsConfig:
    ca: Path | None = setting(None, readable=True)  # the system's where left out
    cert: Path | None = setting(None, readable=True)
    key: Path | None = setting(None, readable=True)


@dataclass(frozen=True, slots=True)
class NatsConfig:
    servers: tuple[str, ...] = setting((), secret=True)
    bucket: str = "zero-watermarks"
    user: str | None = None
    password: str | None = setting(None, secret=True)
    creds: Path | None = setting(None, readable=True, credential=True)
    token: str | None = setting(None, secret=True)
    tls: NatsTlsConfig | None = None
    replicas: int = setting(1, low=1, high=5)  # of a bucket that is made


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


@dataclass(frozen=True, slots=True)
class Config:
    mongodb: MongodbConfig = field(default_factory=MongodbConfig)
    schema: DocumentLocation = field(default_factory=DocumentLocation)
    mappings: DocumentLocation | None = None
    server: ServerConfig = field(default_factory=ServerConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    feed: FeedConfig = field(default_factory=FeedConfig)
    watermarks: WatermarksConfig = field(default_factory=WatermarksConfig)
    nats: NatsConfig = field(default_factory=NatsConfig)
    log: LogConfig = field(default_factory=LogConfig)


_ENVIRONMENT: Variables = {
    "MONGODB_URI": ("mongodb", "uri", ("uri_file",)),
    "SCHEMA_FILE": ("schema", "file", ("url", "headers", "refresh")),
    "SCHEMA_URL": ("schema", "url", ("file",)),
    "TABLE_MAPPINGS_FILE": ("mappings", "file", ("url", "headers", "refresh")),
    "TABLE_MAPPINGS_URL": ("mappings", "url", ("file",)),
    "PORT": ("server", "port", ()),
    "WATERMARK_STORAGE": ("watermarks", "storage", ()),
    "WATERMARK_DB_PATH": ("watermarks", "path", ()),
    "NATS_SERVERS": ("nats", "servers", ()),
    "NATS_BUCKET": ("nats", "bucket", ()),
}


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    credentials: Credentials | None = None,
    concerns: Callable[[KeyPath], bool] = lambda path: True,
) -> Config:
    """Return the settings of ``path`` (None: DEFAULT_FILE, if there is one) with those of ``environ`` over them.

    Raises ConfigError with everything that is wrong.

    :param credentials: where to look for systemd credentials, if not in $CREDENTIALS_DIRECTORY
    :param concerns: whether to report an error of the setting at this path. A setting with an unreported error
        is None in the result; leave such settings alone.
    """
    document = read_document(path)
    hint = f" (there is no {DEFAULT_FILE} either)"
    reader = Reader(document, environ, _ENVIRONMENT, hint, credentials=credentials, concerns=concerns)
    config = reader.build(Config, reader.data)
    _check_host(reader, config.server)
    config = replace(config, mongodb=_with_uri(reader, config.mongodb), server=_with_tokens(reader, config.server))
    _check_location(reader, ("schema",), config.schema)
    _check_location(reader, ("mappings",), config.mappings)
    _check_location(reader, ("zero", "permissions"), getattr(config.zero, "permissions", None))
    _check_collections(reader, config.zero)
    _check_nats(reader, config)
    if reader.issues:
        shown, others = reader.issues[:MAX_ISSUES], reader.issues[MAX_ISSUES:]
        raise ConfigError(sorted(shown, key=lambda issue: (issue.line or 0, issue.column or 0)) + others)
    return config


def read_document(path: Path | None) -> ConfigDocument | None:
    """Return the settings file; None where none was named and there is no DEFAULT_FILE. Raises ConfigError."""
    file = path or DEFAULT_FILE
    try:
        text = documents.read(file)
    except ConfigError as exc:
        if path is None and isinstance(exc.__cause__, FileNotFoundError):
            return None
        raise
    document = documents.parse(text, str(file), kind="json" if file.suffix == ".json" else "yaml")
    if not isinstance(document.data, dict):
        raise ConfigError([document.issue((), f"must be an object of settings, not {kind(document.data)}")])
    return document


# What one setting means for another. Each looks only at settings without errors, so that no error is said twice. What
# is wrong is None: a section that is no object, a value, an item of a list or a mapping.


def _with_uri(reader: Reader, section: MongodbConfig) -> MongodbConfig:
    """``section`` with the URI of its uri_file, and the name of its database."""
    if section is None or not reader.sound(("mongodb",), "uri", "uri_file"):
        return section
    key_path: KeyPath = ("mongodb", "uri" if section.uri else "uri_file")
    if bool(section.uri) == bool(section.uri_file):
        reader.add_issue(("mongodb", "uri"), "give uri or uri_file, not both" if section.uri else "is required")
        return section
    uri = section.uri or reader.secret(typing.cast(Path, section.uri_file), key_path)
    if not uri:
        return section
    try:
        database = mongodb_uri.database_of(uri)
    except ValueError as exc:
        reader.add_issue(key_path, str(exc))
        return section
    if not reader.sound(("mongodb",), "database"):
        return section
    if section.database:
        database, key_path = section.database, ("mongodb", "database")
    if not database:
        reader.add_issue(key_path, "names no database: end it with /DATABASE, or set mongodb.database")
    elif "@" in uri.partition("?")[0].rpartition("/")[2] and key_path[1] != "database":
        reader.add_issue(key_path, "the user name and password must be percent-encoded")
    elif problem := database_problem(database):
        reader.add_issue(key_path, problem)
    return replace(section, uri=uri, database=database)


def _check_host(reader: Reader, section: ServerConfig) -> None:
    host = getattr(section, "host", None) or ""
    if " " in host:
        reader.add_issue(("server", "host"), "must not have blanks in it")
    elif ":" in host and _address(host) is None:
        reader.add_issue(("server", "host"), "has a port in it, which is server.port, or is no IPv6 address")


def _with_tokens(reader: Reader, section: ServerConfig) -> ServerConfig:
    """``section`` with the tokens of its token_file, one a line."""
    if section is None:
        return section
    if section.token and section.token_file:
        reader.add_issue(("server", "token_file"), "give token or token_file, not both")
    tokens = section.token
    if section.token_file:
        text = reader.secret(section.token_file, ("server", "token_file"))
        tokens = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not all(re.fullmatch(r"[!-~]+", token) for token in tokens if token):
        reader.add_issue(("server", "token_file" if section.token_file else "token"), "a token is ASCII without blanks")
    guarded = tokens or section.token_file or section.allow_anonymous
    known = reader.sound(("server",), "host", "token_file", "allow_anonymous")
    if known and not (guarded or _is_loopback(section.host)):
        reason = f"is required, for other machines can reach {section.host} (or set server.allow_anonymous: true)"
        reader.add_issue(("server", "token"), reason)
    return replace(section, token=tokens)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_location(reader: Reader, key_path: KeyPath, location: DocumentLocation | None) -> None:
    if location is None or not reader.sound(key_path, "file", "url"):
        return
    if (location.file is None) == (location.url is None):
        reader.add_issue(key_path, "give file or url" + (", not both" if location.url else ""))
        return
    if location.url is None:
        for key in ("headers", "refresh"):
            if getattr(location, key) and reader.sound(key_path, key):
                reader.add_issue((*key_path, key), "goes with url only")
        return
    try:
        parts = urlsplit(location.url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and location.url.isascii()
    except ValueError:
        good = False
    if not good or " " in location.url:
        reader.add_issue((*key_path, "url"), "must be an http or https URL, percent-encoded")
    elif "@" in parts.netloc:
        reader.add_issue((*key_path, "url"), "must not hold a user or password; send headers: {Authorization: …}")
    for key, value in (location.headers or {}).items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", key) or not (value or "").isascii():
            reader.add_issue((*key_path, "headers", key), "is no HTTP header")


def _check_collections(reader: Reader, section: ZeroConfig) -> None:
    for key in ("clients_collection", "mutations_collection"):
        name = getattr(section, key, None)
        if name is not None and (problem := collection_problem(name)):
            reader.add_issue(("zero", key), problem)
    if (
        section is not None
        and section.clients_collection
        and section.clients_collection == section.mutations_collection
    ):
        reader.add_issue(("zero", "mutations_collection"), "must be another collection than zero.clients_collection")


def _check_nats(reader: Reader, config: Config) -> None:
    section, shared = config.nats, getattr(config.watermarks, "storage", None) == "nats-kv"
    if section is None:
        return
    if section.bucket and not re.fullmatch(r"[A-Za-z0-9_-]+", section.bucket):
        reader.add_issue(("nats", "bucket"), "is made of letters, digits, _ and -")
    if shared and not section.servers:
        reader.add_issue(("nats", "servers"), "is required by watermarks.storage: nats-kv")
    for server in section.servers:
        if server and not re.fullmatch(r"((nats|tls|wss?)://)?[^\s/]+/?", server):
            reader.add_issue(("nats", "servers"), "a server is nats://HOST:PORT (or tls://, ws://, wss://)")
