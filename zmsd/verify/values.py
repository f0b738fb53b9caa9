"""Rows as text, from the stream and from zero-cache's SQLite file, so that equal rows have equal texts in most cases.

Where two texts differ, ``differing`` compares column by column what zero-cache stores of them (``liteValue`` in
packages/zero-cache/src/types/lite.ts of rocicorp/mono): SQLite turns the text ``5.0`` in a json column into an integer,
because that column has NUMERIC affinity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zmsd.rows import bson_json
from zmsd.rows.bson_json import quote
from zmsd.schema.tables import Column

_TEXT_TOLERANCE = 1e-15
"""Relative error of a double that zmsd sends as text and SQLite converts."""


def dump(value: Any) -> str:
    """Return JSON text as ``zmsd.rows.plain`` writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def key_of(row: Mapping[str, Any], primary_key: Collection[str]) -> str:
    """Return the key of a row as text: a JSON object with sorted members."""
    return dump({name: row[name] for name in sorted(primary_key)})


def sorted_key(text: str, primary_key: Collection[str]) -> str:
    """Return a key that ``zmsd.rows.plain`` made as ``key_of`` writes it."""
    return text if len(primary_key) == 1 else key_of(json.loads(text), primary_key)


def stored_text(data_type: str, value: Any) -> str:
    """Return the JSON text that zmsd sends for a value that zero-cache's SQLite file holds.

    :param data_type: PostgreSQL type of the column
    :param value: None, int, float or str
    """
    if value is None:
        return "null"
    if data_type == "boolean" and value in (0, 1):
        return "true" if value else "false"
    if data_type == "double precision" and not isinstance(value, str):
        return bson_json.number(value) or "null"
    if data_type == "json" and not isinstance(value, str):
        return quote(dump(value))
    return quote(value) if isinstance(value, str) else dump(value)


def object_text(texts: Mapping[str, str]) -> str:
    """Return the JSON object whose members have these texts."""
    return "{" + ",".join(f"{quote(name)}:{text}" for name, text in texts.items()) + "}"


def differing(columns: Sequence[Column], expected: str, actual: str) -> tuple[str, ...]:
    """Return the names of the columns in which two rows differ.

    :param expected: the row that zmsd makes, as JSON text
    :param actual: the row of the replica, as JSON text
    """
    if expected == actual:
        return ()
    want, have = json.loads(expected), json.loads(actual)
    return tuple(c.name for c in columns if not _equal(c.type, want.get(c.name), have.get(c.name)))


def _equal(kind: str, want: Any, have: Any) -> bool:
    if want == have and type(want) is type(have):
        return True
    if want is None or have is None:
        return False
    if kind == "number":
        return _same_number(want, have)
    return kind == "json" and _parsed(want) == _parsed(have)


def _same_number(want: Any, have: Any) -> bool:
    if isinstance(want, bool) or isinstance(have, bool):
        return False
    try:
        one, other = float(want), float(have)
    except ValueError:
        return False
    as_text = isinstance(want, str) or isinstance(have, str)
    return math.isclose(one, other, rel_tol=_TEXT_TOLERANCE) if as_text else one == other


def _parsed(text: Any) -> str:
    """Return one text for all texts of the same JSON value."""
    try:
        return dump(_plain(json.loads(text if isinstance(text, str) else dump(text))))
    except ValueError:
        return f"not JSON: {text}"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
