"""Operators that zmsd adds to MongoDB's expressions: each is replaced by an expression that mongod evaluates.

``{"$hexToBase64Url": expression}`` gives the bytes of a text of hexadecimal digits, or of an ObjectId, in base64 with
the alphabet of URLs and without padding. zero-sources has an operator of that name.
"""

from __future__ import annotations

from typing import Any

HEX_TO_BASE64_URL = "$hexToBase64Url"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def expanded(value: Any) -> Any:
    """Return an expression, or stages, in which zmsd's operators are replaced by MongoDB's."""
    if isinstance(value, list):
        return [expanded(item) for item in value]
    if not isinstance(value, dict) or "$literal" in value:
        return value
    if value.keys() == {HEX_TO_BASE64_URL}:
        return _hex_to_base64_url(expanded(value[HEX_TO_BASE64_URL]))
    return {key: expanded(item) for key, item in value.items()}


def _hex_to_base64_url(operand: Any) -> dict[str, Any]:
    """Three hexadecimal digits are 12 bits, which are two characters. The text is filled up with zeros to a multiple of
    three digits, and the result is cut to the characters that have bits of the text."""
    digits = [
        {"$indexOfBytes": ["0123456789abcdef", {"$substrBytes": ["$$hex", {"$add": ["$$at", key_path]}, 1]}]}
        for key_path in range(3)
    ]
    number = {"$add": [{"$multiply": [digit, 16 ** (2 - key_path)]} for key_path, digit in enumerate(digits)]}
    characters = [
        {"$substrBytes": [_ALPHABET, {"$toInt": {"$floor": {"$divide": ["$$number", 64]}}}, 1]},
        {"$substrBytes": [_ALPHABET, {"$mod": ["$$number", 64]}, 1]},
    ]
    pair = {"$let": {"vars": {"number": number}, "in": {"$concat": characters}}}
    pairs = {
        "$map": {"input": {"$range": [0, {"$strLenBytes": "$$given"}, 3]}, "as": "at", "in": pair},
    }
    text = {"$reduce": {"input": pairs, "initialValue": "", "in": {"$concat": ["$$value", "$$this"]}}}
    length = {"$toInt": {"$ceil": {"$divide": [{"$multiply": [{"$strLenBytes": "$$given"}, 4]}, 6]}}}
    whole = {"$let": {"vars": {"hex": {"$concat": ["$$given", "00"]}}, "in": {"$substrBytes": [text, 0, length]}}}
    given = {"$toLower": {"$toString": "$$operand"}}
    known = {"$let": {"vars": {"given": given}, "in": whole}}
    missing = {"$lte": ["$$operand", None]}
    return {"$let": {"vars": {"operand": operand}, "in": {"$cond": [missing, None, known]}}}
