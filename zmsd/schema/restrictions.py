"""What a mapping may have mongod evaluate: operators with which a row follows from its document alone, and stays as it
is for as long as the document does.

These are lists of what is allowed: what a later MongoDB adds is refused until it has been looked at. So are mongod's
internal operators, which begin with ``$_``: ``$_internalJsEmit`` runs JavaScript. A test compares the lists with those
of a running mongod (serverStatus, metrics.aggStageCounters and metrics.operatorCounters).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zmsd.config.document import KeyPath

STAGES = ["$match", "$unwind", "$project", "$set", "$addFields", "$unset", "$replaceRoot", "$replaceWith", "$redact"]

EXPRESSIONS_SINCE: dict[tuple[int, int], str] = {
    (5, 0): """abs acos acosh add allElementsTrue and anyElementTrue arrayElemAt arrayToObject asin asinh atan atan2
        atanh avg binarySize bsonSize ceil cmp concat concatArrays cond convert cos cosh dateAdd dateDiff dateFromParts
        dateFromString dateSubtract dateToParts dateToString dateTrunc dayOfMonth dayOfWeek dayOfYear degreesToRadians
        divide eq exp filter first floor getField gt gte hour ifNull in indexOfArray indexOfBytes indexOfCP isArray
        isNumber isoDayOfWeek isoWeek isoWeekYear last let literal ln log log10 lt lte ltrim map max mergeObjects
        millisecond min minute mod month multiply ne not objectToArray or pow radiansToDegrees range reduce regexFind
        regexFindAll regexMatch replaceAll replaceOne reverseArray round rtrim second setDifference setEquals setField
        setIntersection setIsSubset setUnion sin sinh size slice split sqrt stdDevPop stdDevSamp strLenBytes strLenCP
        strcasecmp substr substrBytes substrCP subtract sum switch tan tanh toBool toDate toDecimal toDouble toInt
        toLong toLower toObjectId toString toUpper trim trunc type unsetField week year zip""",
    (6, 0): "firstN lastN maxN minN sortArray toHashedIndexKey tsIncrement tsSecond",
    (7, 0): "bitAnd bitNot bitOr bitXor median percentile",
    (8, 0): "toUUID",
}
"""Operators of expressions by the version of MongoDB that brought them."""
EXPRESSIONS = frozenset(f"${name}" for names in EXPRESSIONS_SINCE.values() for name in names.split())
_QUERIES = """all alwaysFalse alwaysTrue and bitsAllClear bitsAllSet bitsAnyClear bitsAnySet comment elemMatch eq exists
    expr geoIntersects geoWithin gt gte in jsonSchema lt lte mod ne nin nor not options or regex size type"""
QUERIES = frozenset(f"${name}" for name in _QUERIES.split())
"""Operators of queries; all of them are older than MongoDB 5.0."""
VARIABLES = frozenset(("ROOT", "CURRENT", "REMOVE", "DESCEND", "PRUNE", "KEEP"))
"""Of MongoDB's own; those that $let, $map, $filter and $reduce define begin with a lower-case letter."""

_BEYOND = "looks beyond one document: a row must follow from its document alone"
_WRITES = "writes, and a mapping only reads"
_CHANGES = "changes by itself: a row must stay as it is for as long as its document does"
_SCRIPT = "is JavaScript: what it gives need not follow from the document alone"
_INDEX = "needs an index of the collection, but documents are evaluated apart from it"
_INTERNAL = "is internal to MongoDB"

_REASONS = {
    **dict.fromkeys(("$lookup", "$graphLookup", "$unionWith", "$group", "$bucket", "$bucketAuto", "$facet"), _BEYOND),
    **dict.fromkeys(("$sort", "$sortByCount", "$limit", "$skip", "$sample", "$count", "$setWindowFields"), _BEYOND),
    **dict.fromkeys(("$densify", "$fill", "$geoNear", "$search", "$searchMeta", "$vectorSearch"), _BEYOND),
    **dict.fromkeys(("$out", "$merge"), _WRITES),
    **dict.fromkeys(("$rand", "$sampleRate", "$createObjectId"), _CHANGES),
    **dict.fromkeys(("$function", "$accumulator", "$where"), _SCRIPT),
    **dict.fromkeys(("$text", "$near", "$nearSphere", "$meta"), _INDEX),
    "$const": "is internal to MongoDB; write $literal",
}
_REASONS_OF_VARIABLES = {
    **dict.fromkeys(("NOW", "CLUSTER_TIME", "USER_ROLES"), _CHANGES),
    "SEARCH_META": _BEYOND,
}
Found = Iterator[tuple[KeyPath, str]]
"""Yield (key path, reason) for everything that is refused."""


def in_pipeline(stages: list[dict[str, Any]]) -> Found:
    """Yield what is refused in a pipeline."""
    for index, stage in enumerate(stages):
        operator, body = next(iter(stage.items()))
        if operator in STAGES:
            found = in_query(body) if operator == "$match" else in_expression(body)
            yield from _below(index, _below(operator, found))
        else:
            yield (index, operator), _reason(operator, f"not a stage of a mapping; there are {', '.join(STAGES)}")


def in_query(query: Any) -> Found:
    """Yield what is refused in a filter, in which text that looks like a variable is text."""
    for key, item in query.items() if isinstance(query, dict) else ():
        if key == "$expr":
            yield from _below(key, in_expression(item))
        elif key in ("$and", "$or", "$nor"):
            for index, part in enumerate(item if isinstance(item, list) else ()):
                yield from _below(key, _below(index, in_query(part)))
        elif key.startswith("$"):
            yield from _refused(key, QUERIES)
        else:
            yield from _below(key, _in_condition(item))


def in_expression(expression: Any) -> Found:
    """Yield what is refused in an expression, or in the body of a stage that holds some."""
    if isinstance(expression, str) and expression.startswith("$$"):
        name = expression[2:].partition(".")[0]
        if name not in VARIABLES and name[:1].isascii() and not name[:1].islower():
            reason = _REASONS_OF_VARIABLES.get(name, f"not a variable of a mapping; there are {_listed(VARIABLES)}")
            yield (), f"$${name} {reason}"
    elif isinstance(expression, dict):
        for key, item in expression.items():
            if key.startswith("$") and key not in EXPRESSIONS:
                yield from _refused(key, EXPRESSIONS)
            elif key != "$literal":
                yield from _below(key, in_expression(item))
    elif isinstance(expression, list):
        for index, item in enumerate(expression):
            yield from _below(index, in_expression(item))


def _in_condition(condition: Any) -> Found:
    """Yield what is refused in the condition of a field; what operators compare with are values."""
    first = next(iter(condition), "") if isinstance(condition, dict) else ""
    if not first.startswith("$") or first in ("$ref", "$id", "$db"):
        return
    for key, item in condition.items():
        yield from _refused(key, QUERIES) if key.startswith("$") else ()
        if key == "$not":
            yield from _below(key, _in_condition(item))
        elif key == "$elemMatch":
            yield from _below(key, _in_element(item))
        elif key == "$all":
            for index, part in enumerate(item if isinstance(item, list) else ()):
                yield from _below(key, _below(index, _in_condition(part)))


def _in_element(item: Any) -> Found:
    """Yield what is refused in an $elemMatch: a condition of the element, or a filter of its fields."""
    first = next(iter(item), "") if isinstance(item, dict) else ""
    is_filter = not first.startswith("$") or first in ("$and", "$or", "$nor", "$expr", "$where")
    return in_query(item) if is_filter else _in_condition(item)


def _refused(operator: str, allowed: frozenset[str]) -> Found:
    if operator not in allowed:
        yield (operator,), _reason(operator, "not an operator that a mapping may use with MongoDB 5.0 to 8.0")


def _reason(operator: str, otherwise: str) -> str:
    return _INTERNAL if operator.startswith("$_") else _REASONS.get(operator, otherwise)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"$${name}" for name in sorted(names))


def _below(key: str | int, found: Found) -> Found:
    return (((key, *key_path), reason) for key_path, reason in found)
