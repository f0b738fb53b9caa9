"""Checks of the records in a store: a damaged file or bucket may open and contain what zmsd did not write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from zmsd import position

_TOKEN = re.compile(r"[0-9A-Fa-f]{18,}(\.([0-9A-Fa-f]{2})*)?")
"""What ``resume_token.to_text`` returns: a resume token begins with a cluster time of 9 bytes, in hex."""

Check = Callable[[Any], None]


def _text(value: Any) -> None:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(value)


def _number(value: Any) -> None:
    if not isinstance(value, int) or value < 0:
        raise ValueError(value)


def _mark(value: Any) -> None:
    _text(value)
    position.parse(value)


def _maybe(check: Check) -> Check:
    return lambda value: None if value in (None, "") else check(value)


def _json(kind: type) -> Check:
    def check(value: Any) -> None:
        if not isinstance(json.loads(value), kind):
            raise ValueError(value)

    return check


def _token(value: Any) -> None:
    if not _TOKEN.fullmatch(value):
        raise ValueError(value)


TABLES: dict[str, dict[str, Check]] = {
    "replica": {"app": _text, "number": _number, "version": _maybe(_mark), "acked": _maybe(_mark)},
    "copy": {
        "app": _text,
        "number": _number,
        "version": _maybe(_mark),
        "watermark": _mark,
        "stream_from": _mark,
        "edition": _text,
    },
    "edition": {"fingerprint": _text, "document": _json(list)},
    "checkpoint": {"watermark": _mark, "token": _token},
    "identity": {"one": _number, "set_id": _maybe(_text), "collections": _json(dict), "database": _maybe(_text)},
    "invalid": {"one": _number, "below": _mark, "reason": _text},
}
"""Table -> column -> check, which raises ValueError or TypeError for a value that zmsd cannot have written."""


def readable(table: str, row: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return a row with its text decoded, or None if zmsd cannot have written it.

    :param row: the columns in the order of ``TABLES``; text as bytes
    """
    try:
        values = tuple(value.decode() if isinstance(value, bytes) else value for value in row)
        for check, value in zip(TABLES[table].values(), values, strict=True):
            check(value)
    except (ValueError, TypeError, RecursionError):
        return None
    return values
