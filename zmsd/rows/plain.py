"""Plain mappings: one generated function for each table makes the JSON text of a row from a document.

The function has neither a loop nor a dict, so it is faster than ``json.dumps`` (bench/README.rst). It converts the
usual types of each column inline and calls ``bson_json`` for all others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from bson import DBRef, ObjectId

from zmsd.bson_types import type_name
from zmsd.rows import bson_json
from zmsd.rows.filters import compile_filter
from zmsd.rows.rejects import Effect, Rejects
from zmsd.schema.catalog import Table

Row = tuple[str, str]
"""(key, text): JSON objects of the primary key's columns, and of all columns. Rows are equal if their texts are equal.

A plain tuple, because a NamedTuple takes longer to make (bench/README.rst)."""
RowFunction = Callable[[dict[str, Any]], Row | None]

# Usual types of each column type, most frequent first. ``bson_json`` converts all others; a test holds both to agree.
_INLINE = {
    "string": [
        "quote(v) if v.__class__ is str",
        '"null" if v is None',
        """f'"{v.binary.hex()}"' if v.__class__ is ObjectId""",
        """f'"{v.isoformat(timespec="milliseconds")}Z"' if v.__class__ is datetime""",
    ],
    "number": [
        "v if v.__class__ is int",  # a BSON int; a long is decoded to Int64
        '"null" if v is None',
        "(v - epoch) // ms if v.__class__ is datetime",
    ],
    "boolean": ['"true" if v is True', '"false" if v is False'],
    "json": ["json_text(v) if True"],
    "null": ['"null" if v is None'],
}
_NAMES: dict[str, Any] = {
    "quote": bson_json.quote,
    "json_text": bson_json.json_text,
    "ObjectId": ObjectId,
    "datetime": datetime,
    "epoch": datetime(1970, 1, 1),
    "ms": timedelta(milliseconds=1),
}


def compile_rows(table: Table, rejects: Rejects | None = None, id_field: str = "_id") -> RowFunction:
    """Return the function of a plain table: document -> its row, or None if it does not pass the filter or has no key.

    :param rejects: counts values and rows that are not sent; None to count none (for documents that were seen before)
    :param id_field: the field that identifies the document in a reject
    """
    spec, mapping = table.spec, table.mapping
    assert mapping.fields is not None
    names = {**_NAMES, "walk": walk, "unfit": _unfit}
    lines = ["def rows(d):"]
    if mapping.filter:
        names["matches"] = compile_filter(mapping.filter)
        lines.append("    if not matches(d): return None")
    paths = dict(mapping.fields)
    columns = [column.name for column in spec.columns]
    keys = [index for index, name in enumerate(columns) if name in spec.primary_key]
    names["no_key"] = _no_key(table.name, [columns[index] for index in keys], rejects, id_field)
    # The key first: where a row is not sent, its other values are not counted as sent as null.
    for number in sorted(range(len(columns)), key=lambda number: number not in keys):
        column, in_key = spec.columns[number], number in keys
        effect: Effect = "row not sent" if in_key else "value sent as null"
        names[f"slow{number}"] = _slow(table.name, column.name, column.type, effect, rejects, id_field)
        lines.append(f"    v = {_read(tuple(paths[column.name].split('.')))}")
        text = f"{' else '.join(_INLINE[column.type])} else slow{number}(v, d)"
        if column.type == "number" and in_key:
            text = f"str({text})"  # the check of keys needs text
        lines.append(f"    c{number} = {text}")
        if number == keys[-1]:
            missing = " or ".join(f"c{one} == 'null' or ('\\\\u0000' in c{one} and unfit(c{one}))" for one in keys)
            lines.append(f"    if {missing}: return no_key(d, ({', '.join(f'c{one}' for one in keys)},))")
    every = range(len(spec.columns))
    lines.append(f"    return {_template(columns, keys)}, {_template(columns, every)}")
    exec(compile("\n".join(lines), f"<rows of {table.name}>", "exec"), names)
    function: RowFunction = names["rows"]
    return function


def used_fields(table: Table) -> frozenset[str] | None:
    """Return the top-level fields that the function of a table reads; None for all."""
    mapping = table.mapping
    paths = ["_id", *(path for _, path in mapping.fields or ()), *(mapping.filter or ())]
    return frozenset(path.partition(".")[0] for path in paths)


def walk(value: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a path, as the aggregation expression ``"$a.b"`` does.

    An array on the path returns the array of the values that its objects have there
    (https://www.mongodb.com/docs/manual/core/field-paths/).
    """
    for depth, name in enumerate(path):
        if isinstance(value, list):
            rest = path[depth:]
            return [walk(item, rest) for item in value if isinstance(item, (dict, DBRef)) and _has(item, rest)]
        if isinstance(value, DBRef):
            value = value.as_doc()
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _has(value: Any, path: tuple[str, ...]) -> bool:
    """Return whether an object has a value at the path. A path through an array always has: an array, perhaps empty."""
    for name in path:
        if isinstance(value, list):
            return True
        if isinstance(value, DBRef):
            value = value.as_doc()
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def _read(path: tuple[str, ...]) -> str:
    return f"d.get({path[0]!r})" if len(path) == 1 else f"walk(d, {path!r})"


def _template(columns: list[str], chosen: Any) -> str:
    """Return the source of an f-string for a JSON object of the chosen columns."""
    parts = [bson_json.quote(columns[i]).replace("{", "{{").replace("}", "}}") + f":{{c{i}}}" for i in chosen]
    return "f" + repr("{{" + ",".join(parts) + "}}")


def _slow(
    table: str, column: str, kind: str, effect: Effect, rejects: Rejects | None, id_field: str
) -> Callable[[Any, dict[str, Any]], str]:
    convert = bson_json.BY_TYPE[kind]

    def slow(value: Any, document: dict[str, Any]) -> str:
        text = convert(value)
        if text is not None:
            return text
        if rejects is not None:
            rejects.add(table, f"{type_name(value)} in {kind} column {column}", document.get(id_field), effect, column)
        return "null"

    return slow


def _unfit(text: str) -> bool:
    """Return whether the JSON text of a key has a NUL character, on which Zero's clients fail, and not the text
    ``\\u0000``."""
    return "\0" in json.loads(text)


def _no_key(
    table: str, key: Sequence[str], rejects: Rejects | None, id_field: str
) -> Callable[[dict[str, Any], tuple[str, ...]], None]:
    def no_key(document: dict[str, Any], texts: tuple[str, ...]) -> None:
        if rejects is not None:
            named = zip(key, texts, strict=True)
            column = next(name for name, text in named if text == "null" or ("\\u0000" in text and _unfit(text)))
            rejects.add(table, "no primary key", document.get(id_field), "row not sent", column)

    return no_key
