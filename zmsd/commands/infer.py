"""``zmsd infer``: looks at a sample of a database and writes the schema and the mappings that it suggests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from zmsd import log as logs
from zmsd.bson_types import Document
from zmsd.commands.infer_tables import Table, guess
from zmsd.config import document as documents
from zmsd.config import mongodb_names, mongodb_uri
from zmsd.errors import ZmsdError
from zmsd.log import write_line
from zmsd.mongodb.client import CODEC, classified_errors
from zmsd.mongodb.errors import undecodable
from zmsd.mongodb.source import Source
from zmsd.schema.catalog import load_catalog

SCHEMA, MAPPINGS = "schema.json", "mappings.json"
_BYTES = 64 << 20
"""Of a collection's sample."""
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


def infer(uri: str, database: str | None, out: Path, sample: int, force: bool) -> int:
    """The exit code. Raises ZmsdError; no file is written over without ``force``."""
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
    files = [out / name for name in (SCHEMA, MAPPINGS)]
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise ZmsdError(f"{' and '.join(there)} there already: give another --out, or --force to write over")
    source = Source(uri, name)
    try:
        tables = list(_tables(source, sample))
    finally:
        source.close()
    if not tables:
        raise ZmsdError(f"database {name} has no documents to look at (is the name right?)")
    texts = [_text({"tables": {table.name: table.schema for table in tables}}), _text(_mappings(tables))]
    load_catalog(*(documents.parse(text, str(file), kind="json") for text, file in zip(texts, files, strict=True)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in zip(files, texts, strict=True):
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ZmsdError(f"{out}: cannot be written: {error.strerror or error}") from error
    write_line(f"wrote {files[0]} and {files[1]}: read them, they are a suggestion; then zmsd check", begin="\n")
    return 0


def _tables(source: Source, sample: int) -> Iterator[Table]:
    """The tables of every collection; says what is made of each."""
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
            write_line(f"{name}: {len(tables)} tables by {field}; documents with another {field} are in none")
        for table in tables:
            where = "".join(f" where {key} is {value}" for key, value in (table.filter or {}).items())
            write_line(
                f"{name}: table {table.name}, {len(table.columns)} columns, {table.documents} documents seen{where}"
            )
            for note in table.notes:
                write_line(f"  note: {note}")
        yield from tables


def _sample(source: Source, name: str, size: int) -> list[Document]:
    """Documents at random; of a collection that has no more, all of them in their order."""
    found: list[Document] = []
    total = 0
    with classified_errors():
        # By command: pymongo's Collection refuses a few names that MongoDB takes, such as "a..b".
        db = source.content
        few = db.command({"count": name})["n"] <= size
        stages = [{"$limit": size}] if few else [{"$sample": {"size": size}}]
        command: Document = {"aggregate": name, "pipeline": stages, "cursor": {}}
        cursor: Any = db.cursor_command(command, read_preference=db.read_preference, codec_options=_RAW)
        for raw in cursor:
            try:
                found.append(bson.decode(raw.raw, CODEC))
            except (InvalidBSON, MemoryError) as error:
                raise undecodable(name, error) from error
            total += len(raw.raw)
            if total > _BYTES:
                break
    return found


def _mappings(tables: list[Table]) -> Document:
    return {table.name: table.mapping for table in tables}


def _text(value: Document) -> str:
    """JSON, in which what is short stands on one line."""

    def joined(match: re.Match[str]) -> str:
        text = match[0]  # a bracket may stand in a string, a line's end never does
        line = re.sub(r"\n\s*", " ", re.sub(r"(?<=[\[{])\n\s*|\n\s*(?=[\]}])", "", text))
        return text if len(line) > 100 else line

    return re.sub(r"\[[^\[\]{}]*\]|\{[^\[\]{}]*\}", joined, json.dumps(value, indent=2, ensure_ascii=False)) + "\n"
