"""The catalog: every published table with its mapping, and the fingerprint of all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bson import json_util

from zmsd.config.document import ConfigDocument, KeyPath, parse
from zmsd.config.mongodb_names import collection_problem, path_problem
from zmsd.errors import ConfigError, ConfigIssue
from zmsd.schema.literals import JSON_OPTIONS, literals
from zmsd.schema.mapping import Mapping, default_mapping, has_mappings, parse_mappings
from zmsd.schema.tables import Column, SchemaTable, TableSpec, parse_schema


@dataclass(frozen=True, slots=True)
class Table:
    """A published table: its columns and primary key, and the mapping that gives its rows."""

    spec: TableSpec
    mapping: Mapping

    @property
    def name(self) -> str:
        """Server name of the table."""
        return self.spec.name


@dataclass(frozen=True)
class Catalog:
    """All published tables. ``warnings`` are lines for the log; they do not count in comparisons."""

    tables: tuple[Table, ...]
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def collections(self) -> tuple[str, ...]:
        """Return the names of the watched collections, sorted."""
        return tuple(sorted(self.by_collection))

    @cached_property
    def by_collection(self) -> MappingOf[str, tuple[Table, ...]]:
        """Return the tables of each collection."""
        found: dict[str, tuple[Table, ...]] = {}
        for table in self.tables:
            found[table.mapping.collection] = (*found.get(table.mapping.collection, ()), table)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 in hex. It is equal for catalogs with the same tables, in any order."""
        records = sorted((_record(table) for table in self.tables), key=lambda record: str(record["name"]))
        return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the catalog without its warnings as JSON in ASCII."""
        return json.dumps([_record(table) for table in self.tables])

    @staticmethod
    def from_json(text: str) -> Catalog:
        """Return the catalog that ``to_json`` has written."""
        return Catalog(tuple(_table(record) for record in json.loads(text)))


def recheck(catalog: Catalog, name: str) -> None:
    """Check a catalog that another daemon published by the rules for documents. Raises ConfigError.

    :param name: shown in errors in place of a file's name
    """
    records = [_record(table) for table in catalog.tables]
    if not records:
        return
    schema = {
        record["name"]: {
            "tableName": record["name"],
            "columns": {key: {"type": kind, "optional": more} for key, (kind, more) in record["columns"].items()},
            "primaryKey": record["primaryKey"],
        }
        for record in records
    }
    mappings = {
        record["name"]: {
            "collection": record["collection"],
            **({} if record["fields"] is None else {"fields": record["fields"]}),
            **{key: json.loads(record[key]) for key in _COMPUTED if record[key] is not None},
        }
        for record in records
    }
    load_catalog(*(parse(json.dumps(document), name, kind="json") for document in (schema, mappings)))


# A record is a table as plain JSON. Filter, projection and pipeline are strings in it, in canonical extended JSON: the
# order of their keys has a meaning for MongoDB, and an int is not a long.
_COMPUTED = ("filter", "projection", "pipeline")


def _record(table: Table) -> dict[str, Any]:
    mapping = table.mapping
    return {
        "name": table.name,
        "columns": {column.name: [column.type, column.optional] for column in table.spec.columns},
        "primaryKey": table.spec.primary_key,
        "collection": mapping.collection,
        "fields": None if mapping.fields is None else dict(mapping.fields),
        **{key: extended_json(getattr(mapping, key)) for key in _COMPUTED},
        # Left out where it is 0, so that the fingerprints of older versions of zmsd stay valid.
        **({"revision": mapping.revision} if mapping.revision else {}),
    }


def _table(record: dict[str, Any]) -> Table:
    columns = tuple(Column(name, kind, optional) for name, (kind, optional) in record["columns"].items())
    fields = None if record["fields"] is None else tuple(record["fields"].items())
    computed = {key: _from_extended(record[key]) for key in _COMPUTED}
    spec = TableSpec(record["name"], columns, tuple(record["primaryKey"]))
    return Table(spec, Mapping(record["collection"], fields, revision=record.get("revision", 0), **computed))


def extended_json(value: Any) -> str | None:
    """Return canonical extended JSON, which tells apart what Python compares as equal: 1, True, 1.0; None for None."""
    return None if value is None else json_util.dumps(value, json_options=JSON_OPTIONS)


def _from_extended(text: str | None) -> Any:
    def refuse(key_path: KeyPath, reason: str) -> None:
        raise ValueError(reason)

    return None if text is None else literals(json.loads(text), refuse)


def load_catalog(schema: ConfigDocument, mappings: ConfigDocument | None) -> Catalog:
    """Return the catalog of a schema and its mappings. Raises ConfigError with all errors of both documents.

    :param mappings: None takes those in ``schema``, if it has any, or else the default mapping of each table
    """
    tables, issues = parse_schema(schema)
    if not tables:
        raise ConfigError(issues)  # without tables, each mapping would be another error
    found: dict[str, Mapping] = {}
    warnings: list[ConfigIssue] = []
    mappings = schema if mappings is None and has_mappings(schema) else mappings
    if mappings is not None:
        found, more, warnings = parse_mappings(mappings, tables)
        issues += more
    published: list[Table] = []
    for table in tables:
        if table.spec is not None:
            mapping = found.get(table.spec.name) or default_mapping(table)
            issues += _problems_of_names(schema, table, mapping)
            published.append(Table(table.spec, mapping))
    if issues:
        raise ConfigError(issues)
    return Catalog(tuple(published), tuple(map(str, warnings)))


def _problems_of_names(schema: ConfigDocument, table: SchemaTable, mapping: Mapping) -> list[ConfigIssue]:
    """Return errors for names of tables and columns that are not valid as the default name of a collection or field."""
    problems: list[tuple[KeyPath, str | None]] = [((), collection_problem(mapping.collection))]
    problems += [(("columns", name), path_problem(path)) for name, path in mapping.fields or ()]
    return [schema.issue((*table.key_path, *key_path), f"{why}; map it") for key_path, why in problems if why]
