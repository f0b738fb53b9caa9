"""A sample of a collection's documents that any server can take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pymongo.errors import PyMongoError

from zmsd.bson_types import Document
from zmsd.mongodb.errors import code_of

_SAMPLE_MS = 5000
"""Longest time that mongod spends on random documents: fewer than 20 times the sample, and it reads all of them."""
_NO_SAMPLE = frozenset((50, 292, 28799))
"""MaxTimeMSExpired; more than 100 MB to sort, which MongoDB 5.0 does in memory only; and a collection in which random
cursors find the same documents again (https://www.mongodb.com/docs/manual/reference/operator/aggregation/sample/)."""

_Result = TypeVar("_Result")


def sample(size: int, read: Callable[[Document, Document], _Result]) -> _Result:
    """Return what ``read`` returns for ``size`` random documents, or for the first ones if mongod cannot choose.

    Raises PyMongoError.

    :param read: called with the first stage of a pipeline, and the options of its command
    """
    try:
        return read({"$sample": {"size": size}}, {"maxTimeMS": _SAMPLE_MS})
    except PyMongoError as error:
        if code_of(error) not in _NO_SAMPLE:
            raise
    return read({"$limit": size}, {})
