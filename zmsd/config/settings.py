"""The settings: one tree of frozen dataclasses, read from a YAML or JSON file and the environment.

`load` is the only way in, at start, on reload and for ``zmsd check`` alike: it returns a complete, valid Config or
raises one ConfigError with all errors. Only the dataclasses define defaults. Configs compare with ``==``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from zmsd.config import consistency
from zmsd.config import document as documents
from zmsd.config.document import ConfigDocument, KeyPath
from zmsd.config.reader import Credentials, Reader, Variables, kind, setting
from zmsd.errors import MAX_ISSUES, ConfigError

DEFAULT_FILE = Path("/etc/zmsd/zmsd.yaml")
"""The settings file if none is named."""
_RESTART = {"restart": True}
"""Metadata of a section that a reload does not apply; ``setting(…, restart=True)`` marks a single setting."""


@dataclass(frozen=True, slots=True)
class MongodbConfig:
    """Section ``mongodb``: the database whose collections are published."""

    uri: str = setting("", secret=True)
    """URI of a replica set or sharded cluster. After `load`, that of ``uri_file`` if it was set."""
    uri_file: Path | None = setting(None, credential=True)
    """File that holds the URI."""
    database: str = setting("", unprintable=True)
    """Name of the database. After `load`, the one that the URI names if it was not set."""


@dataclass(frozen=True, slots=True)
class DocumentLocation:
    """Where a document is: in a file, behind a URL, or in the settings file itself."""

    file: Path | None = None
    """YAML or JSON file."""
    url: str | None = setting(None, secret=True)  # a query may hold a key
    """URL that returns JSON."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, metadata={"secret": True})
    """Headers of the request to the URL."""
    refresh: float | None = setting(None, low=1, high=86400)
    """Seconds between two requests to the URL; None requests it on a reload only."""
    tables: ConfigDocument | None = setting(None, inline=True)
    """The document itself, an object with ``tables``, written in the settings file."""

    @property
    def source(self) -> Literal["file", "url", "inline"]:
        """Return the kind of location."""
        return "inline" if self.tables is not None else "file" if self.url is None else "url"

    @property
    def name(self) -> str:
        """The file, or the URL without its query, to show to people."""
        if self.tables is not None:
            return self.tables.name
        if self.url is None:
            return str(self.file)
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}" + ("?…" if parts.query else "")


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Section ``server.tls``: serve wss:// and https://."""

    cert: Path = setting(MISSING, readable=True, credential=True)
    """PEM file with the certificate and its chain."""
    key: Path = setting(MISSING, readable=True, credential=True)
    """PEM file with the private key, without a password."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Section ``server``: the gateway, which serves zero-cache and the HTTP pages."""

    host: str = setting("127.0.0.1", restart=True)
    """Address or name to listen on."""
    port: int = setting(3000, low=0, high=65535, restart=True)
    """Port to listen on; 0 takes any free port."""
    token: tuple[str, ...] = setting((), secret=True)
    """Tokens, one of which a client must send. After `load`, those of ``token_file`` if it was set."""
    token_file: Path | None = setting(None, credential=True)
    """File with one token per line."""
    tls: TlsConfig | None = None
    """Certificate and key; None serves without TLS."""
    max_sessions: int = setting(64, low=1)
    """Maximum of WebSocket connections."""
    max_sessions_per_address: int = setting(16, low=1)
    """Maximum of WebSocket connections from one address."""
    allow_anonymous: bool = False
    """Whether to serve without a token on an address that other machines can reach."""


@dataclass(frozen=True, slots=True)
class ZeroConfig:
    """Section ``zero``: what Zero needs besides tables."""

    permissions: DocumentLocation | None = None
    """Zero's permissions."""
    clients_collection: str | None = None
    """Collection in which the application records completed mutations."""
    mutations_collection: str | None = None
    """Collection in which the application records refused mutations."""


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """Section ``feed``: how MongoDB is read."""

    scope: Literal["auto", "collection", "database"] = "auto"
    """One change stream for each collection while MongoDB has little to do, or always one for the database."""
    images: Literal["auto", "required", "off"] = "auto"
    """Whether to switch pre- and post-images on."""
    heartbeat: float = setting(60.0, low=1, high=86400)
    """Seconds without a change after which clients receive an empty transaction."""
    catch_up: int = setting(4, low=1)
    """Maximum of concurrent catch-up feeds."""
    initial_sync_rows_per_second: int = setting(0, low=0)
    """Highest speed of an initial sync, so that it leaves MongoDB to the application; 0 sets no limit."""
    join_delay: float = setting(0.02, low=0, high=1)
    """Seconds for which small changes wait at most for the ack of the last commit, to be sent as one; 0 sends each."""
    lag_report: float = setting(30.0, low=1, high=86400)
    """Seconds between two lag reports to zero-cache."""


@dataclass(frozen=True, slots=True)
class WatermarksConfig:
    """Section ``watermarks``: the store."""

    storage: Literal["sqlite", "nats-kv"] = setting("sqlite", same={"zqlite": "sqlite"})
    """Kind of store."""
    path: Path = setting(Path("watermarks.db"), state=True)
    """sqlite's file. Copies of documents from URLs are kept in ``documents`` beside it."""


@dataclass(frozen=True, slots=True)
class NatsTlsConfig:
    """Section ``nats.tls``: certificates for NATS."""

    ca: Path | None = setting(None, readable=True)
    """PEM file with the certificates to trust; None trusts those of the system."""
    cert: Path | None = setting(None, readable=True)
    """PEM file with the client's certificate."""
    key: Path | None = setting(None, readable=True)
    """PEM file with the client's private key."""


@dataclass(frozen=True, slots=True)
class NatsConfig:
    """Section ``nats``: the NATS servers that hold the store, for ``watermarks.storage: nats-kv``."""

    servers: tuple[str, ...] = setting((), secret=True, separated=True)
    """URLs of the servers."""
    bucket: str = "zero-watermarks"
    """Bucket that all daemons of one publication share."""
    user: str | None = None
    """User name."""
    password: str | None = setting(None, secret=True)
    """Password of the user."""
    creds: Path | None = setting(None, readable=True, credential=True)
    """NATS credentials file."""
    token: str | None = setting(None, secret=True)
    """NATS token."""
    tls: NatsTlsConfig | None = None
    """Certificates."""
    replicas: int = setting(1, low=1, high=5)
    """Number of NATS servers that hold a bucket which zmsd creates."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Section ``log``: the log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", same={"warn": "warning"})
    """Lowest level that is logged."""
    format: Literal["text", "json"] = "text"
    """Format of a line."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings."""

    mongodb: MongodbConfig = field(default_factory=MongodbConfig, metadata=_RESTART)
    """MongoDB."""
    schema: DocumentLocation = field(default_factory=DocumentLocation)
    """Location of the schema."""
    mappings: DocumentLocation | None = None
    """Location of the mappings."""
    server: ServerConfig = field(default_factory=ServerConfig)
    """The gateway."""
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    """Zero."""
    feed: FeedConfig = field(default_factory=FeedConfig, metadata=_RESTART)
    """How MongoDB is read."""
    watermarks: WatermarksConfig = field(default_factory=WatermarksConfig, metadata=_RESTART)
    """The store."""
    nats: NatsConfig = field(default_factory=NatsConfig, metadata=_RESTART)
    """NATS."""
    log: LogConfig = field(default_factory=LogConfig)
    """The log."""


_OF_URL = ("url", "headers", "refresh")
ENVIRONMENT: Variables = {
    "MONGODB_URI": ("mongodb", "uri", ("uri_file",)),
    "SCHEMA_FILE": ("schema", "file", (*_OF_URL, "tables")),
    "SCHEMA_URL": ("schema", "url", ("file", "tables")),
    "TABLE_MAPPINGS_FILE": ("mappings", "file", (*_OF_URL, "tables")),
    "TABLE_MAPPINGS_URL": ("mappings", "url", ("file", "tables")),
    "HOST": ("server", "host", ()),
    "PORT": ("server", "port", ()),
    "AUTH_TOKEN": ("server", "token", ("token_file",)),
    "ZERO_AUTH_TOKEN": ("server", "token", ("token_file",)),
    "WATERMARK_STORAGE": ("watermarks", "storage", ()),
    "WATERMARK_DB_PATH": ("watermarks", "path", ()),
    "NATS_SERVERS": ("nats", "servers", ()),
    "NATS_BUCKET": ("nats", "bucket", ()),
    "LOG_LEVEL": ("log", "level", ()),
    "LOG_FORMAT": ("log", "format", ()),
}
"""Environment variables that override settings."""

FOREIGN = ("SCHEMA_SOURCE", "CONFIG_FILE", "NODE_ENV")
"""Environment variables that configure zero-sources and have no effect on zmsd."""


def ignored_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables of ``environ`` that configure zero-sources and have no effect on zmsd."""
    return tuple(name for name in FOREIGN if environ.get(name))


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
    reader = Reader(document, environ, ENVIRONMENT, hint, credentials=credentials, concerns=concerns)
    config = reader.build(Config, reader.data)
    consistency.check_host(reader, config.server)
    config = replace(
        config,
        mongodb=consistency.with_uri(reader, config.mongodb),
        server=consistency.with_tokens(reader, config.server),
    )
    consistency.check_location(reader, ("schema",), config.schema)
    consistency.check_location(reader, ("mappings",), config.mappings)
    consistency.check_location(reader, ("zero", "permissions"), getattr(config.zero, "permissions", None))
    consistency.check_collections(reader, config.zero)
    consistency.check_nats(reader, config)
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
    consistency.refuse_zero_sources(document)
    return document
