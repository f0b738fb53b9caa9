"""Extended JSON (version 2 and the older forms that drivers read) in mapping documents -> BSON values.

https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bson import json_util
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError

from zmsd.config.document import KeyPath

JSON_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, tz_aware=False, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)

_FORMS = [
    *({name} for name in ("$oid", "$date", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal")),
    *({"$binary"}, {"$binary", "$type"}, {"$uuid"}, {"$timestamp"}, {"$regularExpression"}, {"$symbol"}),
    *({"$minKey"}, {"$maxKey"}, {"$code"}, {"$code", "$scope"}),
]
_NOT_COMPARED = {
    "$undefined": 'MongoDB compares nothing with undefined; write null, or {"$type": "undefined"}',
    "$dbPointer": 'drivers cannot send the deprecated type DBPointer; write {"$type": "dbPointer"}',
}
_NAMES = frozenset(name for form in _FORMS for name in form if name != "$type") | _NOT_COMPARED.keys()
"""Members that an object has only as a literal; $type, $regex and $options are operators as well."""
_MAX_DEPTH = 100


def literals(value: Any, issue: Callable[[KeyPath, str], None], key_path: KeyPath = ()) -> Any:
    """Return ``value`` with its extended JSON literals as BSON values; operators such as $regex stay what they are.

    A symbol becomes a string, with which it is equal for MongoDB
    (https://www.mongodb.com/docs/manual/reference/bson-type-comparison-order/).

    :param issue: called with the key path and the reason of each configuration error
    """
    if len(key_path) > _MAX_DEPTH:
        issue(key_path, "is nested too deeply for MongoDB")
        return None
    if isinstance(value, list):
        return [literals(item, issue, (*key_path, index)) for index, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if "\0" in key:
                issue((*key_path, key), "not a name that MongoDB takes for a field: it has a NUL in it")
        inner = {key: literals(item, issue, (*key_path, key)) for key, item in value.items()}
        named = next((key for key in value if key in _NAMES), None)
        if named is None:
            return inner
        if reason := _problem(named, value):
            issue(key_path, reason)
            return None
        written = value
        try:
            value = json_util.object_hook(inner, json_options=JSON_OPTIONS)
        except (BSONError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
            issue(key_path, f"not a {named} of extended JSON: {json.dumps(written, ensure_ascii=False)}")
            return None
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        issue(key_path, "is beyond the 64 bits of an integer in MongoDB")
    return value


def _problem(named: str, value: dict[str, Any]) -> str | None:
    """Return why an object with a member that only literals have is not a literal."""
    if named in _NOT_COMPARED:
        return _NOT_COMPARED[named]
    if value.keys() not in _FORMS:
        return f"not a {named} of extended JSON: its members are {', '.join(value)}"
    inner = value[named]
    if named == "$regularExpression":
        texts = isinstance(inner, dict) and inner.keys() == {"pattern", "options"}
        if not texts or not all(isinstance(text, str) for text in inner.values()):
            return 'not a $regularExpression of extended JSON: its members are "pattern" and "options", both text'
        if set(inner["options"]) - set("imsux"):
            return f"not a $regularExpression of extended JSON: options are of i, m, s, u, x, got {inner['options']!r}"
    if named in ("$symbol", "$code") and not isinstance(inner, str):
        return f"not a {named} of extended JSON: it must be text"
    return None
