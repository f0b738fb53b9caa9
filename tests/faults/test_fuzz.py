"""Random input on the socket or in a file causes an error for its sender, and neither a crash nor a hang."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.load import MAPPINGS, SCHEMA
from tests.faults.tally import Tally, pick
from tests.faults.test_hostile import INITIAL, masked
from tests.integration import chat
from tests.support.daemon import ZmsdProcess, run_zmsd
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR
from tests.support.websocket import WebSocket
from zmsd.config import settings as config
from zmsd.config.document import ConfigDocument, parse
from zmsd.errors import ConfigError
from zmsd.replication.encoder import TableEncoder
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog, load_catalog

few = settings(
    max_examples=pick(100, 20_000),
    deadline=5000,  # ms: nothing hangs
    suppress_health_check=list(HealthCheck),
    derandomize=pick(True, False),
)
on_a_process = settings(few, max_examples=pick(60, 3000), deadline=20_000)


# THE SOCKET

payloads = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=50).map(lambda text: text.encode(errors="surrogatepass")),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("status"),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    st.tuples(st.sampled_from(["status", "begin", "control"]), st.text(max_size=12)).map(
        lambda parts: json.dumps([parts[0], {}, {"watermark": parts[1]}]).encode()
    ),
)
frames = st.one_of(
    st.builds(masked, st.integers(0, 15), payloads),
    st.builds(masked, st.sampled_from([0, 1, 2, 8, 9, 10]), payloads, st.integers(0, (1 << 64) - 1)),
    st.binary(max_size=60),
    # Invalid in one of these ways: not the last part, reserved bits, no mask.
    st.tuples(st.integers(0, 255), st.integers(0, 125), payloads).map(lambda p: bytes((p[0], p[1])) + p[2][: p[1]]),
)


@pytest.fixture
def zmsd(loaded: Db, serve: Serve) -> ZmsdProcess:
    # One after the other; a session may take a second to notice that its client is gone.
    return serve(SCHEMA, MAPPINGS, settings={"server": {"max_sessions": 250, "max_sessions_per_address": 250}})


def test_websocket_survives_random_frames(zmsd: ZmsdProcess, loaded: Db, follow: Follow, tally: Tally) -> None:
    good = follow(zmsd, app="good")
    version = str(good.replica.version)

    @on_a_process
    @given(st.lists(frames, max_size=8), st.booleans())
    def fuzz(pieces: list[bytes], streaming: bool) -> None:
        sock = WebSocket(zmsd.port)
        try:
            resume = f"&lastWatermark={version}&replicaVersion={version}" if streaming else ""
            sock.upgrade(INITIAL + resume, {})
            with contextlib.suppress(OSError):
                for piece in pieces:
                    sock.send_raw(piece)
        finally:
            sock.abort(reset=False)
        tally.survived += 1

    fuzz()
    unhurt(zmsd, loaded, good)


def test_http_survives_random_requests(zmsd: ZmsdProcess, loaded: Db, follow: Follow, tally: Tally) -> None:
    good = follow(zmsd, app="good")
    words = st.sampled_from(
        [*b"GET / HTTP/1.1 \r\n : % ? & =".split(b" "), b"\r\n\r\n", b"Upgrade", b"websocket", b"Connection"]
        + [
            INITIAL.encode(),
            b"Sec-WebSocket-Key",
            b"Sec-WebSocket-Version: 13",
            b"Content-Length: 5",
            b"lastWatermark=",
            b" ",
        ]
    )

    @on_a_process
    @given(st.lists(words | st.binary(max_size=30), max_size=30).map(b"".join))
    def fuzz(request: bytes) -> None:
        with socket.create_connection(("127.0.0.1", zmsd.port), timeout=15) as sock, contextlib.suppress(OSError):
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        tally.survived += 1

    fuzz()
    unhurt(zmsd, loaded, good)


def unhurt(zmsd: ZmsdProcess, database: Db, good: Any) -> None:
    assert zmsd.get("/healthz")[0] == 200
    database.a.insert_one({"_id": "afterwards", "n": 1})
    good.wait_for(lambda replica: ("afterwards",) in replica.rows["a"], "what is written afterwards")
    assert not good.closings
    assert "Traceback" not in zmsd.stderr()


# DOCUMENTS IN MONGODB

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats()
    | st.text(max_size=30).filter(lambda text: text.isprintable() or text == "")
    | st.text(max_size=10, alphabet=st.characters(exclude_categories=["Cs"]))
    | st.binary(max_size=20)
    | st.datetimes()
    | st.builds(Int64, st.integers(-(1 << 63), (1 << 63) - 1))
    | st.sampled_from([ObjectId(), Decimal128("1E+6000"), Decimal128("NaN"), Decimal128("-0"), MinKey(), MaxKey()])
    | st.sampled_from(
        [Timestamp(1, 2), Regex("^a", "i"), Code("x()", {"a": 1}), Binary(b"x" * 16, 4), Binary(b"y", 128)]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6, alphabet="abn.$\u00e9\x01"), inner, max_size=4)
    ),
    max_leaves=10,
)
ALL_TYPES = {
    "every": {
        "tableName": "every",
        "columns": {
            "id": {"type": "string"},
            **{f"{kind}_{field}": {"type": kind} for kind in ("string", "number", "boolean", "json") for field in "ab"},
        },
        "primaryKey": ["id"],
    }
}
FROM_ALL = {
    "every": {
        "collection": "every",
        "fields": {"id": "_id"} | {f"{kind}_{f}": f for kind in ("string", "number", "boolean", "json") for f in "ab"},
    }
}


def test_random_documents_reach_the_client_in_valid_form(
    database: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    """Documents have every type in every column: the messages are always valid for zero-cache."""
    client = follow(serve(ALL_TYPES, FROM_ALL))

    @settings(few, max_examples=pick(150, 5000))
    @given(values, values, values)
    def fuzz(key: Any, a: Any, b: Any) -> None:
        try:
            database.every.replace_one({"_id": key}, {"a": a, "b": b}, upsert=True)
        except Exception:  # MongoDB does not accept it either
            return
        tally.survived += 1

    fuzz()
    database.every.insert_one({"_id": "the end", "a": 1})
    client.wait_for(lambda replica: ("the end",) in replica.rows["every"], "the end")


# FILES

CONFIG = {
    "mongodb": {"uri": "mongodb://127.0.0.1:27017/db?replicaSet=rs0", "database": "other"},
    "schema": {"file": "schema.json"},
    "mappings": {"url": "http://127.0.0.1/mappings", "headers": {"Authorization": "x"}, "refresh": 30},
    "server": {"host": "127.0.0.1", "port": 3000, "token": ["a", "b"], "max_sessions": 3, "allow_anonymous": True},
    "zero": {"permissions": {"file": "p.json"}, "clients_collection": "c", "mutations_collection": "m"},
    "feed": {"scope": "database", "images": "off", "heartbeat": 5, "catch_up": 2},
    "watermarks": {"storage": "nats-kv", "path": "w.db"},
    "nats": {"servers": ["nats://x:4222"], "bucket": "b", "user": "u", "password": "p"},
    "log": {"level": "debug", "format": "json"},
}
COMPUTED = {
    "user": {
        "source": "users",
        "filter": {"$or": [{"name": {"$regex": "^a"}}, {"age": {"$gt": {"$numberLong": "5"}}}]},
        "projection": {"_id": 0, "id": "$_id", "name": {"$toUpper": "$name"}, "city": "$address.city"},
    },
    "room": {
        "source": "rooms",
        "pipeline": [
            {"$match": {"open": True}},
            {"$unwind": {"path": "$chairs", "includeArrayIndex": "count"}},
            {"$project": {"id": {"$concat": ["$_id", "-", {"$toString": "$count"}]}, "title": 1, "count": 1}},
        ],
    },
}
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        [{}, [], "", "$", "$$ROOT", "_id", {"$where": "1"}, {"$expr": {}}, {"$numberLong": "x"}, [[]], "a..b"]
    ),
    st.dictionaries(
        st.text(max_size=6) | st.sampled_from(["type", "columns", "$match", "fields"]), st.none(), max_size=3
    ),
)


def mutated(document: Any, rng: random.Random, new: list[Any]) -> Any:
    """Return the document with values of ``new`` inserted, or with parts removed, moved or repeated."""
    document = json.loads(json.dumps(document))
    for value in map(copy.deepcopy, new):
        holder, key = document, None
        while isinstance(holder, dict | list) and holder:
            key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if rng.random() < 0.3 or not isinstance(holder[key], dict | list) or not holder[key]:
                break
            holder = holder[key]
        if key is None or not isinstance(holder, dict | list):
            return value
        match rng.randrange(4):
            case 0 if isinstance(holder, dict):
                holder[str(value)] = holder.pop(key)
            case 1:
                del holder[key]
            case 2 if isinstance(holder, list):
                holder.append(value)
            case _:
                holder[key] = value
    return document


def loads(schema: ConfigDocument, mappings: ConfigDocument | None) -> bool:
    """Return whether the documents are a catalog, and check that such a catalog is complete and usable."""
    try:
        catalog = load_catalog(schema, mappings)
    except ConfigError as error:
        said(error)
        return False
    assert Catalog.from_json(catalog.to_json()).fingerprint == catalog.fingerprint
    for table in catalog.tables:
        TableEncoder(table, Rejects())
    return True


def said(error: ConfigError) -> None:
    assert error.issues
    for fault in error.issues:
        assert fault.reason
        assert "\n" not in str(fault)


def parsed(text: str, kind: Any) -> ConfigDocument | None:
    try:
        return parse(text, f"file.{kind}", kind=kind)
    except ConfigError as error:
        said(error)
        return None


@few
@given(
    st.randoms(use_true_random=False), st.lists(odd, min_size=1, max_size=3), st.lists(odd, max_size=3), st.booleans()
)
def test_mutated_schema_and_mappings_load_or_report_errors(
    rng: random.Random, news: list[Any], more: list[Any], computed: bool
) -> None:
    mappings = chat.MAPPINGS | (COMPUTED if computed else {})
    schema = parsed(json.dumps(mutated(chat.SCHEMA, rng, news)), "json")
    mapped = parsed(json.dumps(mutated(mappings, rng, more)), "json")
    if schema is not None and mapped is not None:
        loads(schema, mapped)


@few
@given(st.randoms(use_true_random=False), st.lists(odd, min_size=1, max_size=3), st.booleans())
def test_mutated_settings_load_or_report_errors(
    tmp_path_factory: pytest.TempPathFactory, rng: random.Random, news: list[Any], as_json: bool
) -> None:
    changed = mutated(CONFIG, rng, news)
    text = json.dumps(changed) if as_json else yaml.safe_dump(changed)
    file = tmp_path_factory.getbasetemp() / ("fuzz.json" if as_json else "fuzz.yaml")
    file.write_text(text)
    try:
        config.load(file, {})
    except ConfigError as error:
        said(error)


@few
@given(
    st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")),
    st.sampled_from(["json", "yaml"]),
)
def test_random_text_as_document_loads_or_reports_errors(text: str, kind: str) -> None:
    document = parsed(text, kind)
    if document is not None:
        loads(document, document)


@few
@given(
    st.integers(0, 1 << 30),
    st.lists(st.sampled_from([*"{}[]:,\"'&*!|>-?%@`#\n\t\0", "\ud800", "&a ", "*a", "<<: "]), max_size=6),
)
def test_damaged_document_text_loads_or_reports_errors(start: int, damage: list[str]) -> None:
    for kind, text in (("json", json.dumps(chat.SCHEMA, indent=1)), ("yaml", yaml.safe_dump(chat.SCHEMA))):
        damaged = text
        for number, piece in enumerate(damage):
            at = (start * (number + 7)) % len(damaged)
            damaged = damaged[:at] + piece + damaged[at + start % 5 :]
        document = parsed(damaged, kind)
        if document is not None:
            loads(document, None)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
)
TRAPS = {
    "aliases of aliases": LAUGHS,
    "an alias of itself": "a: &a [*a]\n",
    "a merge of itself": "a: &a {<<: *a}\n",
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "deep YAML": "\n".join(" " * n + "a:" for n in range(3000)),
    "a long number": "a: " + "9" * 100_000,
    "a long key": "a" * 1_000_000 + ": 1",
    "a tag": "a: !!python/object/apply:os.system [exit]",
    "many documents": "---\na: 1\n" * 1000,
    "many keys": "".join(f"k{n}: 1\n" for n in range(5000)),
    "NUL": "a: \0",
}


@pytest.mark.parametrize("text", TRAPS.values(), ids=TRAPS.keys())
def test_trap_documents_are_rejected_in_bounded_time(text: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    for kind in ("json", "yaml"):
        document = parsed(text, kind)
        if document is not None:
            assert not loads(document, None)
            assert not loads(parse(json.dumps(chat.SCHEMA), "schema.json", kind="json"), document)
    file = tmp_path / "zmsd.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as wrong:
        config.load(file, {})
    said(wrong.value)
    assert time.monotonic() - begun < 30 * FACTOR


@pytest.mark.parametrize("which", ["zmsd.yaml", "schema.json", "mappings.json"])
@pytest.mark.parametrize("trap", pick(["aliases of aliases"], list(TRAPS)))
def test_check_command_rejects_trap_documents_with_one_error(
    which: str, trap: str, tmp_path: Path, tally: Tally
) -> None:
    good: dict[str, Any] = {
        "zmsd.yaml": {
            "mongodb": {"uri": "mongodb://127.0.0.1:1/db?serverSelectionTimeoutMS=1"},
            "schema": {"file": "schema.json"},
            "mappings": {"file": "mappings.json"},
        },
        "schema.json": chat.SCHEMA,
        "mappings.json": chat.MAPPINGS,
    }
    for name, content in good.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / which).write_text(TRAPS[trap])
    done = run_zmsd("check", "--config", "zmsd.yaml", cwd=tmp_path)
    assert done.returncode == 78, done.stderr[:500]
    assert which in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    tally.survived += 1
