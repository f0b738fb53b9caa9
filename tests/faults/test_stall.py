"""A connection to mongod that stalls in the middle of a reply while all other connections work.

NAT boxes, firewalls and load balancers do this. The driver's monitor has a connection of its own and notices nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from tests.faults.load import COLLECTIONS, MAPPINGS, PAUSE, SCHEMA, load, received, settle
from tests.faults.tally import Tally, pick
from tests.support.mongod import ReplicaSet
from tests.support.proxy import Proxy
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR, wait_until
from tests.support.writer import Writer

RETRIED_SECONDS = 20.0 * FACTOR
"""Within which a stall is noticed and the request has been repeated on another connection."""

Request = Callable[[bytes], bool]


def of_stream(request: bytes) -> bool:
    """Return whether a request is the getMore of a change stream: no other request has a time to wait."""
    return b"\x12getMore\0" in request and b"maxTimeMS\0" in request


def of_opening(request: bytes) -> bool:
    return b"aggregate\0" in request and b"$changeStream\0" in request


def of_snapshot_scan(request: bytes) -> bool:
    return b"\x12getMore\0" in request and b"maxTimeMS\0" not in request


def of_snapshot_scan_start(request: bytes) -> bool:
    return b"\x02find\0" in request and b"atClusterTime\0" in request


def of_lookup(request: bytes) -> bool:
    return b"\x02find\0" in request and b"$in\0" in request


def of_evaluation(request: bytes) -> bool:
    return b"$documents\0" in request


def of_oplog(request: bytes) -> bool:
    return b"\x02find\0" in request and b"oplog.rs\0" in request


@pytest.fixture
def to_mongod(replica_set: ReplicaSet, stack: contextlib.ExitStack) -> Proxy:
    return stack.enter_context(Proxy(replica_set.nodes[0].port))


@pytest.fixture
def through(to_mongod: Proxy, loaded: Db) -> str:
    return f"mongodb://127.0.0.1:{to_mongod.port}/{loaded.name}?directConnection=true"


def stall(proxy: Proxy, request: Request) -> float:
    """Stall the reply to the next such request, and return the monotonic time of the stall."""
    before = proxy.stalled
    proxy.stall_reply_to(request)
    wait_until(lambda: proxy.stalled > before, "a reply has stalled", 30)
    return time.monotonic()


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_stream_is_retried_when_reply_stalls(
    scope: str, to_mongod: Proxy, through: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, uri=through, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    longest = 0.0
    with load(loaded, client, tally=tally, threads=2):
        for _ in range(pick(1, 3)):
            received(client, 5)
            begun = stall(to_mongod, of_stream)
            tally.survived += 1
            # Data that was already sent may still arrive; everything written from now on needs the stalled reply.
            received(client, 200)
            longest = max(longest, time.monotonic() - begun)
    tally.note(f"retried within {longest:.0f} s")
    assert longest < RETRIED_SECONDS
    assert not client.closings


@pytest.mark.parametrize("scope", pick(["collection"], ["collection", "database"]))
def test_opening_is_retried_when_reply_stalls(
    scope: str, to_mongod: Proxy, through: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, uri=through, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    with load(loaded, client, tally=tally, threads=2):
        received(client, 5)
        to_mongod.stall_reply_to(of_opening)
        # A reset between two requests does not make zmsd reopen the stream.
        wait_until(lambda: to_mongod.stalled or to_mongod.reset() < 0, "a reply has stalled", 30)
        begun = time.monotonic()
        received(client, 200)
        seconds = time.monotonic() - begun
        tally.survived += 1
    tally.note(f"retried within {seconds:.0f} s")
    assert seconds < RETRIED_SECONDS


@pytest.mark.parametrize("request_of", [of_snapshot_scan, of_snapshot_scan_start])
def test_snapshot_scan_is_retried_when_reply_stalls(
    request_of: Request, to_mongod: Proxy, through: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    with Writer(loaded.client, loaded.name, COLLECTIONS, threads=2, pause=PAUSE) as writer:
        writer.seed(10_000)
        zmsd = serve(SCHEMA, MAPPINGS, uri=through)
        writer.start()
        to_mongod.stall_reply_to(request_of)
        client = follow(zmsd, wait=False)
        wait_until(lambda: to_mongod.stalled, "a reply has stalled", 30)
        begun = time.monotonic()
        client.wait_initial(60)
        seconds = time.monotonic() - begun
        received(client, 5)
        writer.stop()
    tally.survived += 1
    tally.note(f"retried within {seconds:.0f} s")
    settle(loaded, writer, client, tally=tally)
    assert seconds < RETRIED_SECONDS


@pytest.mark.parametrize("scope", pick(["database"], ["collection", "database"]))
def test_lookup_is_retried_when_reply_stalls(
    scope: str, to_mongod: Proxy, through: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    settings = {"feed": {"scope": scope, "images": "off"}}
    client = follow(serve(SCHEMA, MAPPINGS, uri=through, settings=settings))
    with load(loaded, client, tally=tally, exact=False, threads=2):
        received(client, 5)
        begun = stall(to_mongod, of_lookup)
        received(client, 200)
        seconds = time.monotonic() - begun
        tally.survived += 1
    tally.note(f"retried within {seconds:.0f} s")
    assert seconds < RETRIED_SECONDS


@pytest.mark.parametrize("scope", pick(["collection"], ["collection", "database"]))
def test_evaluation_is_retried_when_reply_stalls(
    scope: str, to_mongod: Proxy, through: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    fields = MAPPINGS["a"]["fields"]
    computed = {**MAPPINGS, "a": {"collection": "a", "filter": {"$expr": {"$gte": ["$n", 0]}}, "fields": fields}}
    client = follow(serve(SCHEMA, computed, uri=through, settings={"feed": {"scope": scope}}))
    with load(loaded, client, tally=tally, threads=2):
        received(client, 5)
        begun = stall(to_mongod, of_evaluation)
        received(client, 200)
        seconds = time.monotonic() - begun
        tally.survived += 1
    tally.note(f"retried within {seconds:.0f} s")
    assert seconds < RETRIED_SECONDS


def test_proof_of_position_is_retried_when_oplog_read_stalls(
    to_mongod: Proxy, through: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, uri=through)
    client = follow(zmsd)
    with load(loaded, client, tally=tally):
        received(client, 5)
        zmsd.kill()
        to_mongod.stall_reply_to(of_oplog)
        zmsd.launch()
        wait_until(lambda: to_mongod.stalled, "a reply has stalled", 30)
        begun = time.monotonic()
        received(client, 5)
        seconds = time.monotonic() - begun
        tally.survived += 1
    tally.note(f"retried within {seconds:.0f} s")
    assert seconds < RETRIED_SECONDS
