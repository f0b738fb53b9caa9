"""Rewrite stages so that they pass a document's tag on to its rows, and otherwise behave as if it did not exist."""

from __future__ import annotations

import secrets
from decimal import Decimal
from struct import Struct
from typing import Any

from bson import Decimal128
from bson.raw_bson import RawBSONDocument

from zmsd.bson_types import Document, ExactDocument

TAG = f"__zmsd_{secrets.token_hex(6)}"
"""Name of the tag: a field that no document has."""
_MATCHED = f"{TAG}_matched"
_LOGICAL = ("$and", "$or", "$nor")
_int32 = Struct("<i")
_TAG_ELEMENT = b"\x10" + TAG.encode() + b"\0"
"""BSON of the tag before its value, an int (https://bsonspec.org/spec.html)."""


def tagged_document(document: Document, tag: int) -> Document | RawBSONDocument:
    """Return a document with its tag as the last field."""
    if not isinstance(document, ExactDocument):
        return {**document, TAG: tag}
    elements = document.raw[4:-1] + _TAG_ELEMENT + _int32.pack(tag)
    return RawBSONDocument(_int32.pack(len(elements) + 5) + elements + b"\0")


def tagged(stage: Document) -> list[Document]:
    """Return the stages to run instead of a stage. A stage that mongod refuses is left for mongod to refuse."""
    operator, body = next(iter(stage.items()))
    if operator == "$match" and isinstance(body, dict):
        return _tagged_match(body)
    if operator in ("$unwind", "$unset"):  # names of fields only
        return [stage]
    body = _untouched(body)
    if operator == "$project" and is_inclusion(body):
        body = {**body, TAG: 1}
    elif operator == "$replaceWith":
        body = _with_tag(body)
    elif operator == "$replaceRoot" and isinstance(body, dict) and "newRoot" in body:
        body = {**body, "newRoot": _with_tag(body["newRoot"])}
    return [{operator: body}]


def is_inclusion(body: Any) -> bool:
    """Return whether a $project names the fields that stay."""
    if not isinstance(body, dict):
        return False
    kinds = {kind for key, value in body.items() if key != "_id" for kind in _kinds(value)}
    return True in kinds if kinds else True in _kinds(body.get("_id", 0))


def flag(value: Any) -> bool | None:
    """Return whether a member of a projection includes (true) or excludes its field; None for an expression."""
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    return bool(value) if isinstance(value, (bool, int, float, Decimal)) else None


def _kinds(value: Any) -> set[bool]:
    """Return which flags the members of a projection have. A computed field is included."""
    if (stays := flag(value)) is not None:
        return {stays}
    if isinstance(value, dict) and value and not next(iter(value)).startswith("$"):
        return {kind for item in value.values() for kind in _kinds(item)}
    return {True}


def _tagged_match(query: Document) -> list[Document]:
    if not _has_schema(query):
        return [{"$match": _untouched_query(query)}]
    # A $jsonSchema may restrict all fields of a document. Only a pipeline of its own sees the document without the tag;
    # that is slow, and rare.
    alone = {
        "let": {"document": _without_tag("$$ROOT")},
        "pipeline": [{"$documents": ["$$document"]}, {"$match": query}],
    }
    return [{"$lookup": {**alone, "as": _MATCHED}}, {"$match": {_MATCHED: {"$ne": []}}}, {"$unset": _MATCHED}]


def _has_schema(query: Any) -> bool:
    return isinstance(query, dict) and ("$jsonSchema" in query or any(map(_has_schema, _parts(query))))


def _untouched_query(query: Any) -> Any:
    """Return a query whose expressions do not see the tag. The other conditions name their fields.

    Expressions come last, after the conditions that may guard them: mongod orders a query on a collection in the same
    way, but not a $match elsewhere.
    """
    if not isinstance(query, dict):
        return query
    changed: Document = {}
    for key, value in sorted(query.items(), key=lambda member: _has_expression(dict([member]))):
        if key == "$expr":
            value = _untouched(value)
        elif key in _LOGICAL and isinstance(value, list):
            value = sorted(map(_untouched_query, value), key=_has_expression)
        changed[key] = value
    return changed


def _has_expression(query: Any) -> bool:
    return isinstance(query, dict) and ("$expr" in query or any(map(_has_expression, _parts(query))))


def _parts(query: Document) -> list[Any]:
    return [part for key in _LOGICAL if isinstance(query.get(key), list) for part in query[key]]


def _untouched(expression: Any) -> Any:
    """Return the expression, evaluated over the document without the tag."""
    if expression in ("$$ROOT", "$$CURRENT"):
        # An expression may rebind CURRENT, to a value that is not a document.
        return _where_object(expression, _without_tag(expression))
    if isinstance(expression, dict):
        return {key: item if key == "$literal" else _untouched(item) for key, item in expression.items()}
    return [_untouched(item) for item in expression] if isinstance(expression, list) else expression


def _without_tag(expression: Any) -> Document:
    return {"$unsetField": {"field": TAG, "input": expression}}


def _with_tag(expression: Any) -> Document:
    """Return the expression with the tag in its result. A result that is not a document fails as without the tag."""
    set_field = {"$setField": {"field": TAG, "input": "$$root", "value": f"${TAG}"}}
    return {"$let": {"vars": {"root": expression}, "in": _where_object("$$root", set_field)}}


def _where_object(variable: str, then: Document) -> Document:
    return {"$cond": [{"$eq": [{"$type": variable}, "object"]}, then, variable]}
