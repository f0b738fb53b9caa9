"""Make the JSON Schemas of settings, schema and mapping documents in etc/ from the code, for editors.

Usage: python packaging/json_schema.py
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from zmsd.config import settings
from zmsd.config.settings import Config
from zmsd.schema import tables
from zmsd.schema.mapping import FORMS, KEYS

ETC = Path(__file__).resolve().parents[1] / "etc"
DIALECT = "http://json-schema.org/draft-07/schema#"
TEXT: dict[str, Any] = {"type": "string", "minLength": 1}


def descriptions() -> dict[str, str]:
    """Return ``Class.field`` -> the docstring behind the field."""
    found = {}
    for node in ast.parse(inspect.getsource(settings)).body:
        body = node.body if isinstance(node, ast.ClassDef) else []
        for member, following in zip(body, body[1:], strict=False):
            match member, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    assert isinstance(node, ast.ClassDef)
                    found[f"{node.name}.{name}"] = " ".join(text.split())
                case _:
                    pass
    return found


TEXTS = descriptions()


def of_class(cls: Any) -> dict[str, Any]:
    """Return the schema of a section of the settings."""
    hints = typing.get_type_hints(cls)
    properties = {}
    for entry in fields(cls):
        made = of_type(hints[entry.name], entry.metadata)
        properties[entry.name] = {"description": TEXTS[f"{cls.__name__}.{entry.name}"], **made}
        default = entry.default
        if isinstance(default, bool | int | float) or (isinstance(default, str) and default):
            properties[entry.name]["default"] = default
    required = [e.name for e in fields(cls) if e.default is MISSING and e.default_factory is MISSING]
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": properties,
        **({"required": required} if required else {}),
    }


def of_type(hint: Any, rules: Any) -> dict[str, Any]:
    """Return the schema of a setting."""
    args, origin = typing.get_args(hint), typing.get_origin(hint)
    if types.NoneType in args:
        return of_type(args[0], rules)
    if rules.get("inline"):
        return {"type": "object"}
    if origin is Literal:
        return {"enum": [*args, *rules.get("same", {})]}
    if origin is tuple:
        return {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
    if hint is bool:
        return {"type": "boolean"}
    if hint in (int, float):
        bounds = {"minimum": rules["low"], "maximum": rules["high"]}
        kind = "integer" if hint is int else "number"
        return {"type": kind, **{name: value for name, value in bounds.items() if math.isfinite(value)}}
    if hint in (str, Path):
        return TEXT
    if is_dataclass(hint):
        return of_class(hint)
    return {"type": "object", "additionalProperties": TEXT}


def table_schema() -> dict[str, Any]:
    """Return the schema of schema documents in the plain form."""
    column = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **dict.fromkeys(tables.COLUMN_KEYS, {}),
            "type": {"enum": list(tables.TYPES), "description": "Type of the column."},
            "optional": {"type": "boolean", "description": "Whether rows may have null."},
            "serverName": {**TEXT, "description": "Name that zero-cache gets, if it is another."},
        },
    }
    table = {
        "type": "object",
        "required": ["columns", "primaryKey"],
        "properties": {
            "columns": {"type": "object", "minProperties": 1, "additionalProperties": column},
            "primaryKey": {"type": "array", "items": TEXT, "minItems": 1, "description": "Columns of the key."},
            **dict.fromkeys(("serverName", "tableName", "name"), TEXT),
        },
    }
    return wrapped(table, "tables")


def mapping_schema() -> dict[str, Any]:
    """Return the schema of mapping documents."""
    described = {
        "collection": {**TEXT, "description": "Collection of the rows."},
        "source": {**TEXT, "description": "The same as collection."},
        "fields": {"type": "object", "additionalProperties": TEXT, "description": "Column -> path of a field."},
        "filter": {"type": "object", "description": "Query that a document must match."},
        "discriminator": {"type": "object", "description": "The same as filter."},
        "projection": {"type": "object", "description": "Column -> path, 1, or an expression of MongoDB."},
        "pipeline": {"type": "array", "items": {"type": "object"}, "description": "Stages over one document."},
        "revision": {"type": "integer", "minimum": 0, "description": "Another number sends all rows again."},
    }
    assert described.keys() == set(KEYS)
    mapping = {
        "type": "object",
        "additionalProperties": False,
        "anyOf": [{"required": ["collection"]}, {"required": ["source"]}],
        "not": {"required": [FORMS[0], FORMS[1]]},
        "properties": described,
    }
    return wrapped(mapping, "mappings")


def wrapped(one: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the schema of an object of these, at the top or under ``tables`` or ``mappings``."""
    inner = {"type": "object", "additionalProperties": {"$ref": "#/definitions/one"}}
    return {
        "definitions": {"one": one},
        "anyOf": [
            {"type": "object", "required": [name], "properties": {name: inner}},
            {**inner, "properties": {"$schema": {"type": "string"}}},
        ],
    }


def made() -> dict[str, str]:
    """Return file name -> text."""
    schemas = {
        "settings": ("Settings of zmsd", of_class(Config)),
        "tables": ("Schema document of zmsd", table_schema()),
        "mappings": ("Mapping document of zmsd", mapping_schema()),
    }
    return {
        f"{name}.schema.json": json.dumps({"$schema": DIALECT, "title": title, **schema}, indent=1) + "\n"
        for name, (title, schema) in schemas.items()
    }


if __name__ == "__main__":
    for name, text in made().items():
        (ETC / name).write_text(text)
