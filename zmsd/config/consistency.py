"""Rules between settings, and those for which a type is not enough.

Each function looks only at settings without errors, so that an error is reported once. A setting with an error is
None: a section that is not an object, a value, an item of a list or of a mapping.
"""

from __future__ import annotations

import ipaddress
import re
import typing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from zmsd.config import mongodb_uri
from zmsd.config.document import ConfigDocument, KeyPath
from zmsd.config.mongodb_names import collection_problem, database_problem
from zmsd.config.reader import Reader
from zmsd.errors import ConfigError

if typing.TYPE_CHECKING:
    from zmsd.config.settings import Config, DocumentLocation, MongodbConfig, ServerConfig, ZeroConfig

_ZERO_SOURCES = (("db",), ("kv",), ("auth",), ("zero", "auth"), ("zero", "kv"))
"""Sections of zero-sources' config.yml that zmsd does not have."""


def refuse_zero_sources(document: ConfigDocument) -> None:
    """Raise ConfigError with one error for a settings file of zero-sources, instead of one for each of its settings."""
    for section, *inner in _ZERO_SOURCES:
        found = document.data.get(section)
        if isinstance(found, dict) and (not inner or isinstance(found.get(inner[0]), dict)):
            reason = f"is a setting of zero-sources: zmsd import {document.name} makes a zmsd.yaml of it"
            raise ConfigError([document.issue((section, *inner), reason)])


def with_uri(reader: Reader, section: MongodbConfig) -> MongodbConfig:
    """Return ``section`` with the URI of its uri_file, and the name of its database."""
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


def check_host(reader: Reader, section: ServerConfig) -> None:
    """Check that server.host is a name or an address, without a port."""
    host = getattr(section, "host", None) or ""
    if " " in host:
        reader.add_issue(("server", "host"), "must not contain blanks")
    elif ":" in host and _address(host) is None:
        reader.add_issue(("server", "host"), "is not an IPv6 address; a port goes into server.port")


def with_tokens(reader: Reader, section: ServerConfig) -> ServerConfig:
    """Return ``section`` with the tokens of its token_file, which has one per line."""
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
    """Return the address that ``host`` is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def check_location(reader: Reader, key_path: KeyPath, location: DocumentLocation | None) -> None:
    """Check where a document is: in one of file, url and tables; and what goes with a URL."""
    if location is None or not reader.sound(key_path, "file", "url", "tables"):
        return
    given = [name for name in ("file", "url", "tables") if getattr(location, name) is not None]
    if len(given) != 1:
        reader.add_issue(key_path, "give file, url or tables" + (f", not {' and '.join(given)}" if given else ""))
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
            reader.add_issue((*key_path, "headers", key), "is not a valid HTTP header")


def check_collections(reader: Reader, section: ZeroConfig) -> None:
    """Check the names of the collections of mutations."""
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


def check_nats(reader: Reader, config: Config) -> None:
    """Check the bucket and the servers of NATS."""
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
