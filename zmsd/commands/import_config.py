"""``zmsd import``: settings and documents of zmsd from a config.yml of zero-sources."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from zmsd import log as logs
from zmsd.commands.import_differences import differences
from zmsd.config import document as documents
from zmsd.config import mongodb_uri
from zmsd.config.document import ConfigDocument, KeyPath
from zmsd.config.settings import load
from zmsd.errors import ConfigError, ConfigIssue, EndpointDown, ZmsdError, reason_of
from zmsd.log import write_line
from zmsd.schema.catalog import Catalog
from zmsd.schema.loading import load_documents

SETTINGS = "zmsd.yaml"
_PARTS = {"schema": ("schemaFile", "schemaUrl", "inlineSchema")}
_PARTS["mappings"] = ("tableMappingsFile", "tableMappingsUrl", "inlineTableMappings")
"""Section of zmsd -> the settings of zero-sources for a document in a file, behind a URL and inline."""
_KNOWN: tuple[KeyPath, ...] = (
    *(("db", name) for name in ("uri", "db", "publish")),
    *(("schema", name) for name in ("source", "tables", *_PARTS["schema"], *_PARTS["mappings"])),
    *((*above, "auth", "token") for above in ((), ("zero",))),
    *((*above, "kv", name) for above in ((), ("zero",)) for name in ("provider", "zqlite", "nats")),
)
"""Settings that are imported or explained."""


class Imported(NamedTuple):
    """What a config.yml becomes."""

    settings: dict[str, dict[str, Any]]
    """Section -> key -> value."""
    documents: dict[str, str]
    """Name of a file beside zmsd.yaml -> its text."""
    notes: list[ConfigIssue]
    """Settings that mean something else, or that zmsd does not have."""


def import_config(path: Path, out: Path, force: bool) -> int:
    """Write zmsd.yaml and documents, list what means something else, and return the exit code.

    :param path: the config.yml of zero-sources
    :param out: directory to write to
    :param force: overwrite existing files
    :raises ConfigError: the file, or a document that it names, cannot be read
    :raises ZmsdError: a file exists already or cannot be written
    """
    logs.setup("error")
    imported = translated(_read(path))
    files = {out / name: text for name, text in imported.documents.items()}
    settings = out / SETTINGS
    files[settings] = settings_text(imported.settings, path.name)
    there = [str(file) for file, text in files.items() if file.exists() and file.read_text(errors="replace") != text]
    if there and not force:
        raise ZmsdError(f"{' and '.join(there)} exists already: give another --out, or --force to overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            mode = 0o600 if file == settings else 0o644  # the settings hold a token and a URI
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as written:
                written.write(text)
            file.chmod(mode)
    except OSError as error:
        raise ZmsdError(f"{out}: cannot be written: {reason_of(error)}") from error
    write_line(f"wrote {', '.join(map(str, files))}")
    errors, catalog = _checked(settings)
    notes = [*map(str, imported.notes)]
    if catalog is not None:
        notes += [*map(str, differences(catalog)), *catalog.warnings]
        notes += map(str, _published(_read(path), catalog))
    if notes:
        write_line("means something else than in zero-sources:")
    for note in notes:
        write_line(f"  {note}")
    if errors:
        write_line("to be corrected:")
    for issue in errors:
        write_line(f"  {issue}")
    write_line(f"next: zmsd check --config {settings}, and the steps in docs/moving.rst")
    return 1 if errors else 0


def translated(document: ConfigDocument) -> Imported:
    """Return the settings and documents that a config.yml becomes. Raises ConfigError."""
    data = document.data
    if not isinstance(data, dict) or "mongodb" in data or all(_get(data, *path) is None for path in _KNOWN):
        raise ConfigError(
            [document.issue((), "is not a config.yml of zero-sources, which has db, schema and kv or zero")]
        )
    settings: dict[str, dict[str, Any]] = {}
    found: dict[str, str] = {}
    notes: list[ConfigIssue] = []

    def note(path: KeyPath, reason: str) -> None:
        notes.append(document.issue(path, reason))

    _database(data, settings, note)
    for section in _PARTS:
        _document(document, section, settings, found)
    if "schema" not in settings:
        settings["schema"] = {"file": "schema.json"}
        note(("schema",), "names no schema, which is in the application then: write schema.json, or try zmsd infer")
    _token(data, settings, note)
    _store(data, settings, note)
    for path in _leaves(data):
        if not any(path[: len(known)] == known for known in _KNOWN):
            note(path, "zmsd has no such setting")
    return Imported(settings, found, notes)


def settings_text(settings: dict[str, dict[str, Any]], name: str) -> str:
    """Return the text of zmsd.yaml. Values are written as JSON, which YAML reads alike."""
    lines = [f"# Made of {name} by zmsd import; zmsd.yaml(5) has every setting."]
    for section, values in settings.items():
        lines += [f"{section}:", *(f"  {key}: {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> ConfigDocument:
    kind: documents.Kind = "json" if path.suffix == ".json" else "yaml"
    return documents.parse(documents.read(path), str(path), kind=kind)


def _get(data: Any, *path: str | int) -> Any:
    """Return the value at a path; None if there is none."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _leaves(data: dict[str, Any], above: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the key path of each value that is not an object."""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _database(data: Any, settings: dict[str, dict[str, Any]], note: Any) -> None:
    uri, name = _get(data, "db", "uri"), _get(data, "db", "db")
    settings["mongodb"] = {"uri": uri} if uri else {}
    try:
        in_uri = mongodb_uri.database_of(str(uri or ""))
    except ValueError:  # reported when the written settings are checked
        in_uri = ""
    if name and name != in_uri:
        settings["mongodb"]["database"] = name
    if uri:
        note(("db", "uri"), f"zmsd keeps no shards in MongoDB: drop {in_uri or name}.streamer_shards after the move")


def _document(document: ConfigDocument, section: str, settings: dict[str, Any], found: dict[str, str]) -> None:
    """Take over a document: the text of a file or of an inline object, or the URL. Raises ConfigError."""
    given = _get(document.data, "schema") or {}
    file, url, inline = (_get(given, name) for name in _PARTS[section])
    if section == "schema" and isinstance(_get(given, "tables"), dict | list):
        inline = {"tables": given["tables"]}
    source = _get(given, "source") or ("file" if file else "url" if url else "inline")
    name = f"{section}.json"
    if source == "url" and url:
        settings[section] = {"url": url}
    elif source == "file" and file:
        text = documents.read(Path(document.name).parent / str(file))
        documents.parse(text, str(file), kind="json")
        settings[section], found[name] = {"file": name}, text
    elif source == "inline" and inline is not None:
        settings[section], found[name] = {"file": name}, json.dumps(inline, indent=2, ensure_ascii=False) + "\n"


def _token(data: Any, settings: dict[str, dict[str, Any]], note: Any) -> None:
    settings["server"] = {}
    path: KeyPath = ("zero", "auth", "token") if _get(data, "zero", "auth", "token") else ("auth", "token")
    if token := _get(data, *path):
        settings["server"] = {"host": "0.0.0.0", "token": token}
        note(path, "zero-cache sends the token to zmsd as ?token=…, not as ?k=…: change ZERO_UPSTREAM_DB")
    else:
        note((), "zero-sources listens on every address; zmsd without a token on 127.0.0.1 (server.host)")


def _store(data: Any, settings: dict[str, dict[str, Any]], note: Any) -> None:
    above: KeyPath = ("zero", "kv") if _get(data, "zero", "kv") else ("kv",)
    kv = _get(data, *above) or {}
    if _get(kv, "provider") == "nats" or (_get(kv, "nats") and not _get(kv, "zqlite")):
        nats = _get(kv, "nats") or {}
        auth = {"user": _get(nats, "auth", "user"), "password": _get(nats, "auth", "pwd")}
        settings["watermarks"] = {"storage": "nats-kv"}
        settings["nats"] = {"servers": _get(nats, "servers") or [], **{k: v for k, v in auth.items() if v}}
        note((*above, "nats"), "zmsd makes a bucket of its own and does not read the old one (nats.bucket)")
    elif kv:
        note(above, "zmsd makes a file of its own and does not read the old one (watermarks.path)")


def _checked(settings: Path) -> tuple[list[str], Catalog | None]:
    """Return what is wrong with the files that were written, and their catalog."""
    try:
        loaded = load_documents(load(settings, {}), keep=False)
    except EndpointDown as error:
        return [f"{issue}; zmsd import read no document behind it" for issue in error.issues], None
    except ConfigError as error:
        return [*map(str, error.issues)], None
    return [], loaded.catalog


def _published(document: ConfigDocument, catalog: Catalog) -> Iterator[ConfigIssue]:
    """Yield where ``db.publish`` and the collections of the tables differ."""
    listed = _get(document.data, "db", "publish")
    if not isinstance(listed, list):
        return
    for name in sorted(set(catalog.collections) - {*map(str, listed)}):
        yield document.issue(
            ("db", "publish"), f"does not list {name}, which zmsd watches, because a table is read from it"
        )
    for index, name in enumerate(listed):
        if str(name) not in catalog.collections:
            yield document.issue(("db", "publish", index), f"no table is read from {name}, so zmsd does not watch it")
