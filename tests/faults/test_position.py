"""Lost positions: the oplog has rolled over, or the database is a different one. Each time zmsd sends reset-required,
and never skips changes."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.load import COLLECTIONS, MAPPINGS, SCHEMA, empty, forget, load, received
from tests.faults.tally import Tally, pick
from tests.support.client import ChangeSourceClient
from tests.support.compare import assert_same
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.proxy import Proxy
from tests.support.stub import lexi
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """A MongoDB with an oplog of 2 MB."""
    with ReplicaSet(tmp_path_factory.mktemp("tiny"), oplog_mb=2) as replica_set:
        yield replica_set


def reset_message(client: ChangeSourceClient) -> str:
    """Wait for reset-required, and return its message."""
    return str(wait_until(lambda: client.replica.reset_required, "reset-required", 60))


def assert_new_sync_matches(
    database: Db, zmsd: ZmsdProcess, follow: Follow, before: ChangeSourceClient, tally: Tally
) -> None:
    """Sync again, as zero-cache does after reset-required: a new initial sync, with a watermark above the old one, and
    the stream after it."""
    client = follow(zmsd)
    assert str(client.replica.version) > str(before.replica.version), "it is above the old one"
    begun = client.replica.version
    with Writer(database.client, database.name, COLLECTIONS, threads=1) as writer:
        writer.start(50)
        writer.wait()
    client.wait_for(lambda replica: replica.watermark >= lexi(writer.last_position()), "the last write")
    assert client.replica.version == begun
    assert_same(database, SCHEMA, MAPPINGS, client.replica)
    tally.survived += 1


def test_oplog_rollover_while_client_is_connected_loses_nothing(
    tiny: ReplicaSet, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    database = empty(tiny, stack, "there")
    client = follow(serve(SCHEMA, MAPPINGS, uri=tiny.uri(database.name)))
    with load(database, client, tally=tally):
        for _ in range(pick(2, 20)):
            tiny.roll_oplog(tiny.now())
            received(client)
            tally.survived += 1
    assert not client.closings


def test_oplog_rollover_while_zmsd_is_down_sends_reset(
    tiny: ReplicaSet, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    """While zmsd runs, a client that is away is served from zmsd's change log."""
    database = empty(tiny, stack, "away")
    zmsd = serve(SCHEMA, MAPPINGS, uri=tiny.uri(database.name))
    client = follow(zmsd)
    with Writer(database.client, database.name, COLLECTIONS, threads=1, pause=0.01) as writer:
        writer.start()
        received(client, 5)
        client.close()
        tiny.roll_oplog(tiny.now())
        back = follow(zmsd, replica=client.replica, wait=False)
        received(back, 5)
        back.close()
        tally.survived += 1
        zmsd.kill()
        tiny.roll_oplog(tiny.now())
        zmsd.start()
        lost = follow(zmsd, replica=back.replica, wait=False)
        reason = reset_message(lost)
        writer.stop()
    assert "oplog" in reason or "286" in reason, reason
    tally.note(f"reset_message: {reason}")
    assert_new_sync_matches(database, zmsd, follow, lost, tally)


def test_oplog_rollover_while_zmsd_is_suspended_sends_reset(
    tiny: ReplicaSet, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    database = empty(tiny, stack, "still")
    zmsd = serve(SCHEMA, MAPPINGS, uri=tiny.uri(database.name))
    client = follow(zmsd)
    with Writer(database.client, database.name, COLLECTIONS, threads=1, pause=0.01) as writer:
        writer.start()
        received(client, 5)
        zmsd.signal(signal.SIGSTOP)
        tiny.roll_oplog(tiny.now())
        zmsd.signal(signal.SIGCONT)
        reset_message(client)
        writer.stop()
    assert_new_sync_matches(database, zmsd, follow, client, tally)


def test_oplog_rollover_within_a_transaction_rolls_back_before_reset(
    tmp_path: Path, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    """The client reads so slowly that neither memory nor the oplog has the rest of the transaction."""
    replica_set = stack.enter_context(ReplicaSet(tmp_path / "set", oplog_mb=10))
    replica_set.take_large_transactions()
    database = empty(replica_set, stack, "middle")
    zmsd = serve(SCHEMA, MAPPINGS, uri=replica_set.uri(database.name))
    client = follow(zmsd, receive_buffer=1 << 14)
    other = follow(zmsd, shard=1)
    filler = "x" * 2000
    with database.client.start_session() as session:
        # More than all buffers between zmsd and a client that does not read.
        documents = [{"_id": number, "n": 0, "text": filler} for number in range(6000)]
        session.with_transaction(lambda _: database.a.insert_many(documents, session=session))
    wait_until(lambda: client.replica.in_transaction, "it begins")
    client.stop_reading()
    for number in range(25):
        database.b.insert_many([{"_id": f"{number}-{one}", "n": 0, "text": filler * 5} for one in range(300)])
        other.wait_rows("b", (number + 1) * 300)  # wait, so that the oplog does not roll over zmsd itself
    replica_set.roll_oplog(replica_set.now())
    client.go_on_reading()
    reset_message(client)
    assert client.replica.rollbacks == 1
    assert client.rows("a") == {}
    tally.survived += 1


@pytest.mark.parametrize("meanwhile", ["runs", "is down"])
def test_other_database_at_the_same_address_sends_reset(
    meanwhile: str,
    replica_set: ReplicaSet,
    tiny: ReplicaSet,
    loaded: Db,
    serve: Serve,
    follow: Follow,
    tally: Tally,
    stack: contextlib.ExitStack,
) -> None:
    """The other database's cluster time is later than the client's, so the time alone would not reveal it."""
    proxy = stack.enter_context(Proxy(replica_set.nodes[0].port))
    uri = f"mongodb://127.0.0.1:{proxy.port}/{loaded.name}?directConnection=true"
    zmsd = serve(SCHEMA, MAPPINGS, uri=uri)
    client = follow(zmsd)
    with load(loaded, client, tally=tally, threads=1):
        received(client, 5)
    if meanwhile == "is down":
        zmsd.kill()
    else:
        client.close()
    other = empty(tiny, stack, loaded.name)
    other.a.insert_one({"_id": "of the other", "n": 1})
    proxy.target = tiny.nodes[0].port
    proxy.reset()
    if meanwhile == "is down":
        zmsd.start()
        back = client
    else:
        wait_until(lambda: zmsd.log("another replica set|is not the one"), "it is noticed", 30)
        back = follow(zmsd, replica=client.replica, wait=False)
    other.a.insert_one({"_id": "of the other, later", "n": 1})
    reason = reset_message(back)
    assert "another" in reason or "not the one" in reason, reason
    assert_new_sync_matches(other, zmsd, follow, back, tally)


@pytest.mark.parametrize("meanwhile", ["runs", "is down"])
def test_database_restored_to_an_older_state_sends_reset(
    meanwhile: str, tmp_path: Path, serve: Serve, follow: Follow, tally: Tally, stack: contextlib.ExitStack
) -> None:
    """The database's files were restored: it has the same identity, and soon a later cluster time than the client."""
    replica_set = stack.enter_context(ReplicaSet(tmp_path / "set"))
    database = empty(replica_set, stack, "restored")
    node = replica_set.nodes[0]
    zmsd = serve(SCHEMA, MAPPINGS, uri=replica_set.uri(database.name))
    client = follow(zmsd)
    database.a.insert_one({"_id": "before", "n": 1})
    client.wait_for(lambda replica: replica.transactions, "the commit of it")
    forget(client, "before")
    node.stop()
    shutil.copytree(node.directory, tmp_path / "backup")
    node.start()
    replica_set.primary()
    with load(database, client, tally=tally, threads=1):
        received(client, 5)
    if meanwhile == "is down":
        zmsd.kill()
    had = client.replica.watermark
    node.stop()
    shutil.rmtree(node.directory)
    shutil.copytree(tmp_path / "backup", node.directory)
    node.start()
    replica_set.primary()
    with Writer(database.client, database.name, COLLECTIONS, threads=1) as writer:
        writer.start()
        wait_until(lambda: writer.log and lexi(writer.last_position()) > had, "its time is later than the client's")
        writer.stop()
    if meanwhile == "is down":
        zmsd.start()
    reset_message(client)
    assert_new_sync_matches(database, zmsd, follow, client, tally)
