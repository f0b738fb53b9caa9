"""What mongod could evaluate, but no mapping may hold: a row must follow from its document alone, and stay as it is for
as long as the document does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zmsd.config.document import Keys

STAGES = ["$match", "$unwind", "$project", "$set", "$addFields", "$unset", "$replaceRoot", "$replaceWith", "$redact"]

_BEYOND = "looks beyond one document: a row must follow from its document alone"
_WRITES = "writes, and a mapping only reads"
_CHANGES = "changes by itself: a row must stay as it is for as long as its document does"
_SCRIPT = "is JavaScript: what it gives need not follow from the document alone"
_INDEX = "needs an index of the collection, but documents are evaluated apart from it"

_REFUSED_STAGES = {
    **dict.fromkeys(("$lookup", "$graphLookup", "$unionWith", "$group", "$bucket", "$bucketAuto", "$facet"), _BEYOND),
    **dict.fromkeys(("$sort", "$sortByCount", "$limit", "$skip", "$sample", "$count", "$setWindowFields"), _BEYOND),
    **dict.fromkeys(("$densify", "$fill", "$geoNear", "$search", "$searchMeta", "$vectorSearch"), _BEYOND),
    **dict.fromkeys(("$out", "$merge"), _WRITES),
}
_REFUSED_OPERATORS = {
    **dict.fromkeys(("$rand", "$sampleRate", "$createObjectId"), _CHANGES),
    **dict.fromkeys(("$function", "$accumulator", "$where"), _SCRIPT),
    **dict.fromkeys(("$text", "$near", "$nearSphere", "$geoNear", "$meta"), _INDEX),
}
_REFUSED_VARIABLES = {
    **dict.fromkeys(("NOW", "CLUSTER_TIME", "USER_ROLES"), _CHANGES),
    "SEARCH_META": _BEYOND,
}


def in_pipeline(stages: list[dict[str, Any]]) -> Iterator[tuple[Keys, str]]:
    """(place in the pipeline, reason) for everything that is refused."""
    for index, stage in enumerate(stages):
        operator, body = next(iter(stage.items()))
        if operator in STAGES:
            found = in_query(body) if operator == "$match" else in_expression(body)
            yield from (((index, operator, *place), reason) for place, reason in found)
        else:
            reason = _REFUSED_STAGES.get(operator, f"is no stage of a mapping; there are {', '.join(STAGES)}")
            yield (index, operator), reason


def in_query(query: Any) -> Iterator[tuple[Keys, str]]:
    """The same for a filter, in which text that looks like a variable is text."""
    return _walk(query, False)


def in_expression(expression: Any) -> Iterator[tuple[Keys, str]]:
    """The same for an expression."""
    return _walk(expression, True)


def _walk(value: Any, expression: bool) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str) and expression and value.startswith("$$"):
        name = value[2:].partition(".")[0]
        if name in _REFUSED_VARIABLES:
            yield (), f"$${name} {_REFUSED_VARIABLES[name]}"
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in _REFUSED_OPERATORS:
                yield (key,), _REFUSED_OPERATORS[key]
            elif not (expression and key == "$literal"):
                yield from _below(key, _walk(item, expression or key == "$expr"))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _below(index, _walk(item, expression))


def _below(key: str | int, found: Iterator[tuple[Keys, str]]) -> Iterator[tuple[Keys, str]]:
    return (((key, *place), reason) for place, reason in found)
