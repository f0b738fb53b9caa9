"""How zmsd uses pymongo: the codec, the options of every client, and the driver's errors as zmsd's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bson import DBRef
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient
from pymongo.errors import DocumentTooLarge, OperationFailure, PyMongoError

from zmsd.bson_types import Document
from zmsd.config import mongodb_uri
from zmsd.errors import EvaluationError, ResumeLost, SourceRefused, SourceTimeout, SourceUnavailable, TokenUnfit
from zmsd.mongodb.errors import classify, is_transient, message_of, one_line
from zmsd.mongodb.members import MemberSelector
from zmsd.pace import FIRST_SECONDS

CODEC: CodecOptions[Document] = CodecOptions(
    document_class=dict,
    unicode_decode_error_handler="replace",  # a document with invalid UTF-8 must not stop the stream
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # years beyond 9999 are decoded to DatetimeMS
)
"""How zmsd decodes BSON."""

_TIMEOUTS = {
    "serverSelectionTimeoutMS": 5000,
    "connectTimeoutMS": 5000,
    "heartbeatFrequencyMS": 5000,
    "maxIdleTimeMS": 60_000,
}
"""Options that the URI may set. ``maxIdleTimeMS`` closes the connections that many clients needed at the same time.

https://www.mongodb.com/docs/manual/reference/connection-string-options/
"""
_DEADLINES: dict[str, Any] = {"socketTimeoutMS": round(FIRST_SECONDS * 1000), "timeoutMS": None}
"""Options that the URI cannot set. The driver ends a request if its complete reply has not come within
``socketTimeoutMS``, and closes that connection: the driver's monitor has a connection of its own and does not notice
that another connection stalls. A getMore waits 1 s for events, so 9 s are left for its reply. A request that may take
longer has a deadline of its own (Pace). ``timeoutMS`` would replace the wait of a getMore."""


def client_factory(uri: str, members: MemberSelector) -> Callable[[], MongoClient[Document]]:
    """Return a function that makes a client, which connects in the background.

    The function raises SourceUnavailable if the driver rejects an option, or cannot read a file that the URI names.
    """
    given = uri.partition("?")[2].lower()
    defaults: dict[str, Any] = {name: value for name, value in _TIMEOUTS.items() if name.lower() not in given}
    make: Callable[[], MongoClient[Document]] = partial(
        MongoClient,
        uri,
        appname="zmsd",
        maxPoolSize=0,
        server_selector=members,
        **defaults,
        **_DEADLINES,
        **mongodb_uri.client_options(uri),
    )

    def connect() -> MongoClient[Document]:
        try:
            return make()
        except Exception as error:  # the driver raises whatever an option or a file raises: OSError, SSLError, KeyError
            raise SourceUnavailable(f"{mongodb_uri.why_not(uri, error)} (mongodb.uri)") from error

    return connect


def unwrap_dbrefs(found: list[Any]) -> list[Document]:
    """Return the documents of a reply as dicts.

    pymongo decodes a document with ``$ref`` and ``$id`` at its top, which ``$replaceRoot`` may make, to a DBRef.
    """
    if DBRef in set(map(type, found)):
        return [one.as_doc() if isinstance(one, DBRef) else one for one in found]
    return found


@contextmanager
def classified_errors() -> Iterator[None]:
    """Raise an error of the driver as the SourceError of its class (``classify``). Only the driver is called within."""
    try:
        yield
    except PyMongoError as error:
        raise classify(error) from error
    except (OSError, ValueError, TypeError, LookupError) as error:  # as from a password that cannot be normalised
        raise SourceRefused(f"the driver cannot use the URI: {one_line(error)} (mongodb.uri)") from error


@contextmanager
def evaluation_errors() -> Iterator[None]:
    """Raise an error of a pipeline over given documents as EvaluationError, if the pipeline or its documents caused it.

    Every other error is raised as the SourceError of its class, and an error of a change stream's position, which the
    pipeline does not have, as SourceUnavailable.
    """
    try:
        yield
    except OperationFailure as error:
        classified = classify(error)
        if isinstance(classified, (SourceRefused, SourceTimeout)):
            raise classified from error
        if is_transient(error) or isinstance(classified, (ResumeLost, TokenUnfit)):
            raise SourceUnavailable(str(classified)) from error
        raise EvaluationError(message_of(error).rpartition(" :: caused by :: ")[2]) from error
    except DocumentTooLarge as error:
        raise EvaluationError(one_line(error)) from error
    except PyMongoError as error:
        raise classify(error) from error
