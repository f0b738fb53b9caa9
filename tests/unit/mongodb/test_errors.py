from __future__ import annotations

import subprocess
import sys
from typing import Any

import bson
import pytest
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    CursorNotFound,
    ExecutionTimeout,
    InvalidOperation,
    InvalidURI,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

from zmsd.errors import (
    EventUnreadable,
    NotWatchable,
    ResumeLost,
    SourceError,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
    TokenUnfit,
)
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.errors import classify, code_of, is_transient, undecodable

RESUMABLE, NON_RESUMABLE = "ResumableChangeStreamError", "NonResumableChangeStreamError"


def failure(code: int, *labels: str) -> OperationFailure:
    details: dict[str, Any] = {"ok": 0, "errmsg": "what happened", "code": code, "codeName": "Name"}
    return OperationFailure("what happened, full error: …", code, {**details, "errorLabels": list(labels)})


# The table of errors by code, as it was written down; from MongoDB's error_codes.yml and the drivers' specification.
BY_CODE: dict[type[SourceError], tuple[int, ...]] = {
    SourceUnavailable: (6, 7, 89, 91, 133, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436)
    + (63, 150, 234, 13388, 43, 175, 237, 11601)
    + (1, 8000, 99999),  # unknown
    SourceTimeout: (50,),
    TokenUnfit: (280, 260),
    ResumeLost: (286, 136, 40576, 40585, 40615, 47),
    SourceRefused: (13, 18, 20, 40573, 40324, 40415),
    NotWatchable: (166,),
    EventUnreadable: (10334,),
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in BY_CODE.items() for code in codes])
def test_error_code_has_its_class(kind: type[SourceError], code: int) -> None:
    assert type(classify(failure(code))) is kind
    assert code_of(failure(code)) == code


def test_error_label_takes_precedence_over_code() -> None:
    assert type(classify(failure(11600, NON_RESUMABLE))) is ResumeLost
    assert type(classify(failure(1, NON_RESUMABLE))) is ResumeLost
    assert type(classify(failure(1, RESUMABLE))) is SourceUnavailable


@pytest.mark.parametrize("code", [280, 260])
def test_unfit_token_is_not_a_lost_position(code: int) -> None:
    assert type(classify(failure(code, NON_RESUMABLE))) is TokenUnfit


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("connection closed"),
        ConnectionFailure("no"),
        NetworkTimeout("timed out"),
        NotPrimaryError("not primary"),
        ServerSelectionTimeoutError("No servers found yet"),
        WaitQueueTimeoutError("pool"),
        CursorNotFound("cursor id 1 not found", 43),
        ExecutionTimeout("operation exceeded time limit", 50),
    ],
    ids=lambda error: type(error).__name__,
)
def test_transient_errors_are_source_unavailable(error: PyMongoError) -> None:
    assert isinstance(classify(error), SourceUnavailable)
    assert is_transient(error)


def test_timeout_tells_server_from_driver() -> None:
    ours, the_servers = classify(NetworkTimeout("timed out")), classify(failure(50))
    assert isinstance(ours, SourceTimeout)
    assert not ours.busy
    assert isinstance(the_servers, SourceTimeout)
    assert the_servers.busy


def test_unknown_errors_are_not_transient() -> None:
    assert not is_transient(failure(17276))
    assert not is_transient(InvalidOperation("closed"))


@pytest.mark.parametrize("error", [ConfigurationError("bad option"), InvalidURI("bad")])
def test_configuration_errors_of_the_driver_are_refused(error: PyMongoError) -> None:
    assert type(classify(error)) is SourceRefused


def test_error_text_is_one_readable_line() -> None:
    assert str(classify(failure(13))) == "what happened (Name, code 13)"
    error = ServerSelectionTimeoutError(
        "db:1: [Errno 111] Connection refused (configured timeouts: socketTimeoutMS: 1.0ms), Timeout: 5.0s, "
        "Topology Description: <TopologyDescription id: 1, servers: [\n<ServerDescription …>]>"
    )
    assert str(classify(error)) == (
        "db:1: Connection refused: is it running, and can it be reached from here? (mongodb.uri)"
    )
    assert str(classify(AutoReconnect(""))) == "no reason was given"


RAW = RawBSONDocument(bson.encode({"ok": 0, "errmsg": "what happened", "code": 246, "codeName": "Name"}))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OperationFailure(f"what happened, full error: {RAW}", 246, RAW), "what happened (Name, code 246)"),
        (OperationFailure(f"what happened, full error: {RAW}", 246), "what happened (error, code 246)"),
        (NotPrimaryError("not primary, full error: {'ok': 0}", {"ok": 0}), "the member is not primary any more"),
        (InvalidOperation("Cannot use MongoClient after close"), "the connection was closed meanwhile"),
        (AutoReconnect("h:1: [SSL: BAD] bad certificate (_ssl.c:1006)"), "h:1: [SSL: BAD] bad certificate"),
        (AutoReconnect("encoding with 'idna' codec failed (UnicodeError: x)"), "the name of the host is not valid"),
        (ConfigurationError("x must be y, not <class 'bson.int64.Int64'>"), "x must be y, not Int64"),
        (ConfigurationError(f"cannot encode {RAW!r}"), "cannot encode a document"),
        (ConfigurationError(f"cannot decode with {CODEC}"), "cannot decode with"),
        (
            OperationFailure(
                "m", 1, {"errmsg": 'cannot resume: {_data: "8265F0A1B2C3D4E5F60718293A4B5C6D7E8F90"} was'}
            ),
            "cannot resume: {…} was (error, code 1)",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_error_text_has_no_dump_and_no_class_name(error: PyMongoError, text: str) -> None:
    assert str(classify(error)) == text


def test_read_preference_that_no_member_satisfies_is_named() -> None:
    selector = 'No replica set members match selector "Secondary(tag_sets=None, max_staleness=-1, hedge=None)"'
    text = str(classify(ServerSelectionTimeoutError(f"{selector}, Timeout: 5.0s, Topology Description: <…>")))
    assert text.startswith("no member of the replica set satisfies the URI's readPreference: ")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            'not authorized on db to execute command { find: "a", lsid: { id: UUID("1") }, $db: "db" }',
            "not authorized on db to execute command find (Unauthorized, code 13): the user lacks a role; zmsd check "
            "names it (mongodb.uri)",
        ),
        (
            "command find requires authentication",
            "command find requires authentication (Unauthorized, code 13): give a user: "
            "mongodb://USER:PASSWORD@HOST/..., or create the URI's user again if it was dropped (mongodb.uri)",
        ),
    ],
)
def test_missing_privilege_has_advice(message: str, text: str) -> None:
    details = {"ok": 0, "errmsg": message, "code": 13, "codeName": "Unauthorized"}
    assert str(classify(OperationFailure(message, 13, details))) == text


def test_wrong_password_has_advice() -> None:
    details = {"ok": 0, "errmsg": "Authentication failed.", "code": 18, "codeName": "AuthenticationFailed"}
    assert str(classify(OperationFailure("Authentication failed.", 18, details))) == (
        "Authentication failed. (AuthenticationFailed, code 18): check user, password and authSource (mongodb.uri)"
    )


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ('No replica set members available for replica set name "rs0"', "run rs.initiate() once, or correct the URI"),
        (
            'No replica set members match selector "Primary()"',
            "no member of the replica set is primary: an election is under way, or rs.initiate() was never run",
        ),
    ],
)
def test_unusable_replica_set_has_advice(message: str, advice: str) -> None:
    text = str(classify(ServerSelectionTimeoutError(f"{message}, Timeout: 5.0s, Topology Description: <…>")))
    assert advice in text


def test_memory_error_in_bson_is_retried_and_not_blamed_on_the_document() -> None:
    """A real one: bson's C code, with 6 MB of address space left for a document of 16 MB."""
    script = """
import bson, resource
data = bson.encode({"a": ["x" * 100 for _ in range(140_000)]})
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 6_000_000
resource.setrlimit(resource.RLIMIT_AS, (used, used))
try:
    bson.decode(data)
except Exception as error:
    print(type(error).__name__, repr(str(error)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    kind, text = done.stdout.split()
    met = InvalidBSON(eval(text)) if kind == "InvalidBSON" else MemoryError()
    for error in (met, MemoryError()):
        fault = undecodable("things", error)
        assert isinstance(fault, SourceUnavailable)
        assert "out of memory" in str(fault)
        assert "BSON" not in str(fault)


def test_invalid_bytes_are_blamed_on_the_document() -> None:
    fault = undecodable("things", InvalidBSON("invalid length or type code"))
    assert isinstance(fault, SourceRefused)
    assert "replace or delete it" in str(fault)
