"""``zmsd infer``: read a sample of a database and write a schema, mappings and settings that fit it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import bson
from bson.errors import InvalidBSON

from zmsd import log as logs
from zmsd.bson_types import Document
from zmsd.commands.infer_tables import Table, guess
from zmsd.config import document as documents
from zmsd.config import mongodb_names, mongodb_uri
from zmsd.errors import ZmsdError
from zmsd.log import redact_uri, write_line
from zmsd.mongodb.client import CODEC, classified_errors
from zmsd.mongodb.cursors import cursor_command
from zmsd.mongodb.errors import undecodable
from zmsd.mongodb.raw_batch import RAW
from zmsd.mongodb.sampling import sample as random_sample
from zmsd.mongodb.source import Source
from zmsd.schema.catalog import load_catalog

SCHEMA, MAPPINGS, SETTINGS = "schema.json", "mappings.json", "zmsd.yaml"
_SAMPLE_BYTES = 64 << 20
"""Largest sample of a collection."""


def infer(uri: str, database: str | None, out: Path, sample: int, force: bool) -> int:
    """Write schema.json, mappings.json and zmsd.yaml, and return the exit code.

    :param uri: URI of MongoDB
    :param database: name of the database; None: the name in the URI
    :param out: directory to write to
    :param sample: documents to read of each collection
    :param force: overwrite existing files
    :raises ZmsdError: the database cannot be read, or a file cannot be written
    """
    logs.setup("error")
    try:
        named = mongodb_uri.database_of(uri)
    except ValueError as error:
        raise ZmsdError(f"--uri: {error}") from None
    name = database or named
    if not name:
        raise ZmsdError("--uri names no database: end it with /DATABASE, or give --database")
    if problem := mongodb_names.database_problem(name):
        raise ZmsdError(f"{'--database' if database else '--uri'}: {problem}")
    files = [out / name for name in (SCHEMA, MAPPINGS, SETTINGS)]
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise ZmsdError(f"{' and '.join(there)} exists already: give another --out, or --force to overwrite")
    source = Source(uri, name)
    try:
        tables = list(_tables(source, sample))
    finally:
        source.close()
    if not tables:
        raise ZmsdError(f"database {name} has no documents: check its name")
    texts = [_text({"tables": {table.name: table.schema for table in tables}}), _text(_mappings(tables))]
    load_catalog(*(documents.parse(text, str(file), kind="json") for text, file in zip(texts, files, strict=False)))
    texts.append(_settings(uri, name))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in zip(files, texts, strict=True):
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ZmsdError(f"{out}: cannot be written: {error.strerror or error}") from error
    write_line(
        f"wrote {files[0]}, {files[1]} and {files[2]}: correct these suggestions, then run"
        f" zmsd check --config {files[2]}",
        begin="\n",
    )
    return 0


def _tables(source: Source, sample: int) -> Iterator[Table]:
    """Yield the tables of every collection, and print a line for each."""
    names: set[str] = set()
    for name, info in sorted(source.collections().items()):
        kind = info.get("type", "collection")
        problem = mongodb_names.collection_problem(name)
        if name.startswith("system."):
            continue
        if kind != "collection" or problem:
            write_line(f"{name}: left out: {problem or f'is a {kind}, MongoDB has no change streams for those'}")
            continue
        found = _sample(source, name, sample)
        tables = guess(name, found, names) if found else []
        if not tables:
            reason = "its _id are objects or of types that cannot be a key" if found else "is empty"
            write_line(f"{name}: left out: {reason}")
        if len(tables) > 1:
            field = next(iter(tables[0].filter or {}))
            write_line(f"{name}: {len(tables)} tables by {field}; documents with another {field} are in no table")
        for table in tables:
            where = "".join(f" where {key} is {value}" for key, value in (table.filter or {}).items())
            write_line(
                f"{name}: table {table.name}, {len(table.columns)} columns, {table.documents} documents seen{where}"
            )
            for note in table.notes:
                write_line(f"  note: {note}")
        yield from tables


def _sample(source: Source, name: str, size: int) -> list[Document]:
    """Return random documents; all documents in their order if there are no more than ``size``."""
    db = source.content

    def read(first: Document, options: Document) -> list[Document]:
        found: list[Document] = []
        total = 0
        command: Document = {"aggregate": name, "pipeline": [first], "cursor": {}, **options}
        for raw in cursor_command(db, command, db.read_preference, RAW):
            try:
                found.append(bson.decode(raw.raw, CODEC))
            except (InvalidBSON, MemoryError) as error:
                raise undecodable(name, error) from error
            total += len(raw.raw)
            if total > _SAMPLE_BYTES:
                break
        return found

    with classified_errors():
        few = db.command({"count": name})["n"] <= size
        return read({"$limit": size}, {}) if few else random_sample(size, read)


def _settings(uri: str, database: str) -> str:
    """Return settings for the two documents. A URI with a password is not written."""
    if redact_uri(uri) == uri:
        where = f"  uri: {json.dumps(uri, ensure_ascii=False)}\n"
    else:
        where = (
            "  # The URI has a password: set MONGODB_URI, or name a file that holds it.\n  # uri_file: mongodb_uri\n"
        )
    return (
        "# Settings of zmsd; zmsd.yaml(5) has all of them.\n"
        f"mongodb:\n{where}  database: {json.dumps(database, ensure_ascii=False)}\n"
        f"schema: {{file: {SCHEMA}}}\nmappings: {{file: {MAPPINGS}}}\n"
    )


def _mappings(tables: list[Table]) -> Document:
    return {table.name: table.mapping for table in tables}


def _text(value: Document) -> str:
    """Return JSON in which a short list or object is on one line."""

    def joined(match: re.Match[str]) -> str:
        text = match[0]  # a string may hold a bracket, but never a line break
        line = re.sub(r"\n\s*", " ", re.sub(r"(?<=[\[{])\n\s*|\n\s*(?=[\]}])", "", text))
        return text if len(line) > 100 else line

    return re.sub(r"\[[^\[\]{}]*\]|\{[^\[\]{}]*\}", joined, json.dumps(value, indent=2, ensure_ascii=False)) + "\n"
