"""Convert cluster times of MongoDB to watermarks of Zero, and back.

A *position* is a cluster time as one integer, ``seconds << 32 | increment``: everything up to and including that time.
Zero compares watermarks as strings, so a position is written as a LexiVersion
(``packages/zero-cache/src/types/lexi-version.ts`` in rocicorp/mono): the number of its digits less one, and its digits,
both in base 36. A schema change, which zmsd makes itself, appends a *minor* number after a dot; it sorts after the
position and before the next one. zero-cache 0.25 cannot read the minor number where a client reconnects (README.rst).
A watermark contains its position, so nothing has to be stored, and every daemon writes the same watermark for the same
change.
"""

from __future__ import annotations

from functools import lru_cache

from bson import Timestamp

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]
_MAX = (1 << 64) - 1


def lexi(number: int) -> str:
    """Return the LexiVersion of a number: ``00`` for 0, ``0a`` for 10, ``110`` for 36."""
    head, tail = divmod(number, 36**4)
    digits = f"{_head(head)}{_PAIRS[tail // 1296]}{_PAIRS[tail % 1296]}" if head else _digits(tail)
    return _DIGITS[len(digits) - 1] + digits


def _digits(number: int) -> str:
    if number < 1296:
        return _PAIRS[number] if number >= 36 else _DIGITS[number]
    return _digits(number // 1296) + _PAIRS[number % 1296]


_head = lru_cache(maxsize=16)(_digits)
"""Cached, because consecutive positions have the same leading digits (bench/README.rst)."""


def unlexi(text: str) -> int:
    """Return the number of a LexiVersion. Raises ValueError for any text that ``lexi`` does not write."""
    number = int(text[1:], 36) if text.isascii() and text.isalnum() else -1
    if not 0 <= number <= _MAX or lexi(number) != text:
        raise ValueError(f"not a watermark: {text!r}")
    return number


def watermark(position: int, minor: int = 0) -> str:
    """Return the watermark of a position, with a minor number above 0 after a dot."""
    return f"{lexi(position)}.{lexi(minor)}" if minor else lexi(position)


LAST = watermark(_MAX)
"""The largest watermark."""


def parse(text: str) -> tuple[int, int]:
    """Return (position, minor) of a watermark. Raises ValueError."""
    major, dot, minor = text.partition(".")
    return unlexi(major), unlexi(minor) if dot else 0


def of_timestamp(time: Timestamp) -> int:
    """Return the position of a cluster time."""
    return time.time << 32 | time.inc


def to_timestamp(position: int) -> Timestamp:
    """Return the cluster time of a position."""
    return Timestamp(position >> 32, position & 0xFFFFFFFF)


def seconds(position: int) -> int:
    """Return the time of a position in seconds since the epoch."""
    return position >> 32
