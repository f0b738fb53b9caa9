"""What commands on cursors share: the namespace that they name, and the end of a cursor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pymongo
from bson.codec_options import CodecOptions
from bson.int64 import Int64
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pymongo.read_preferences import _ServerMode

from zmsd.bson_types import Document

_CLOSE_SECONDS = 2.0
"""Deadline of killCursors. mongod ends an idle cursor after ten minutes by itself (``cursorTimeoutMillis``)."""


def collection_of(cursor: Document) -> str:
    """Return what ``getMore`` and ``killCursors`` call the collection of a reply's cursor: ``ns`` less the database."""
    name: str = cursor["ns"].partition(".")[2]
    return name


def cursor_command(
    db: Database[Document], command: Document, preference: _ServerMode, codec: CodecOptions[Any]
) -> Iterator[Any]:
    """Yield the documents of a find or aggregate command. Raises PyMongoError.

    By command, because pymongo's Collection refuses a few names that MongoDB allows, such as "a..b". The codec is the
    database's as well: ``Database.cursor_command`` decodes only the first batch with its own ``codec_options``.
    """
    same = db.with_options(codec_options=codec)
    yield from same.cursor_command(command, read_preference=preference, codec_options=codec)


def kill_cursor(run: Callable[[Document], Any], collection: str, cursor_id: int) -> None:
    """End a cursor on its server, and with it an operation of the cursor that is running.

    Never raises: a server that cannot be reached, or has another state by now, ends the cursor itself.

    :param run: runs a command on the member that has the cursor
    :param collection: as ``collection_of`` returns it
    :param cursor_id: 0 for a cursor that has ended: nothing is done
    """
    if cursor_id:
        with contextlib.suppress(PyMongoError), pymongo.timeout(_CLOSE_SECONDS):
            run({"killCursors": collection, "cursors": [Int64(cursor_id)]})
