"""Resume tokens: the cluster time inside them, and their text in the store.

A resume token is the ``_id`` of a change event. Its ``_data`` is a KeyString in hexadecimal that begins with the
event's cluster time: the type byte ``82`` and 8 bytes, in token versions 1 (MongoDB 4.0.7 to 6.0) and 2 (7.0).
"""

from __future__ import annotations

from zmsd.bson_types import Document

Token = Document


def time_text(token: Token) -> str:
    """Return the cluster time of a token as 16 hexadecimal digits, which sort like the positions they stand for."""
    text: str = token["_data"][2:18]
    return text


def position_of(token: Token) -> int:
    """Return the position (cluster time as an integer) of a token."""
    return int(token["_data"][2:18], 16)


def to_text(token: Token) -> str:
    """Return a token as text for the store.

    The type bits are kept where there are any: mongod cannot read the token of an event whose ``_id`` has a double or a
    Decimal128 without them (MongoDB 6.0: error 50810, KeyString format error).
    """
    bits = token.get("_typeBits")
    return str(token["_data"]) if bits is None else f"{token['_data']}.{bytes(bits).hex()}"


def from_text(text: str) -> Token:
    """Return the token that ``to_text`` wrote."""
    data, _, bits = text.partition(".")
    return {"_data": data, "_typeBits": bytes.fromhex(bits)} if bits else {"_data": data}


def at(position: int) -> Token:
    """Return a token that carries a position and nothing else; it cannot be given to mongod."""
    return {"_data": f"82{position:016X}"}
