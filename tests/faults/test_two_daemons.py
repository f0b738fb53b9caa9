"""Two daemons with NATS behind a load balancer: either may serve, and the loss of one loses nothing."""

from __future__ import annotations

import contextlib
import copy
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.faults.load import COLLECTIONS, MAPPINGS, PAUSE, SCHEMA, load, received, settle, written
from tests.faults.tally import Tally, pick
from tests.support.chance import chance
from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess
from tests.support.nats import NatsCluster, NatsServer
from tests.support.proxy import Balancer
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from tests.support.writer import Writer
from zmsd.commands.strict_replica import Change, Replica
from zmsd.config.settings import NatsConfig
from zmsd.watermarks.base import Contents
from zmsd.watermarks.nats import SharedStore

GOES_ON = 2.0
"""Seconds within which a client must get the next change, whatever became of the daemon that served it."""


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


class Pair:
    """Two daemons behind a load balancer, and a client."""

    def __init__(self, daemons: list[ZmsdProcess], balancer: Balancer, follow: Follow) -> None:
        self.daemons = daemons
        self.balancer = balancer
        self.client: ChangeSourceClient = follow(balancer)

    @property
    def serving(self) -> ZmsdProcess:
        return next(daemon for daemon in self.daemons if daemon.port == self.balancer.target)

    def move(self) -> None:
        """Make the client reconnect to the other daemon."""
        self.balancer.target = next(daemon.port for daemon in self.daemons if daemon is not self.serving)
        self.client.hang_up()

    def kill(self) -> float:
        """Kill the daemon that serves, and return the seconds until the client gets the next change from the other."""
        client, connections, began = self.client, self.client.connections, time.monotonic()
        self.serving.kill()
        client.wait_connected(connections + 1)
        received(client)
        return time.monotonic() - began


@pytest.fixture
def pair(serve: Serve, follow: Follow) -> Iterator[Callable[..., Pair]]:
    """Return ``pair(settings)``, which starts two zmsd that publish SCHEMA."""
    entered: list[Balancer] = []

    def pair(settings: Any = None) -> Pair:
        daemons = [serve(SCHEMA, MAPPINGS, settings=settings, start=False) for _ in range(2)]
        for daemon in daemons:
            daemon.launch()
        wait_until(lambda: all(daemon.ready() for daemon in daemons), "both are ready", 30)
        entered.append(Balancer(*(daemon.port for daemon in daemons)).__enter__())
        return Pair(daemons, entered[-1], follow)

    yield pair
    for balancer in entered:
        balancer.__exit__(None, None, None)


def shared(*urls: str, **more: Any) -> dict[str, Any]:
    return {"watermarks": {"storage": "nats-kv"}, "nats": {"servers": list(urls), **more}}


def known(database: Db, *urls: str) -> Contents:
    store = SharedStore(NatsConfig(urls), database.name)
    try:
        return store.contents()
    finally:
        store.close()


def acks(database: Db, app: str, *urls: str) -> list[str | None]:
    """Return the newest ack of each replica of an app that the store has a record of."""
    return [record.acked for replica, record in known(database, *urls).replicas.items() if replica.app == app]


@pytest.mark.parametrize("storage", ["nats-kv", "sqlite"])
def test_kill_of_the_serving_daemon_moves_the_client(
    storage: str, loaded: Db, pair: Callable[..., Pair], nats: NatsServer, tally: Tally
) -> None:
    """With a SQLite store each, the daemons share nothing: everything that is needed can be derived."""
    two = pair(shared(nats.url) if storage == "nats-kv" else None)
    pauses: list[float] = []
    with load(loaded, two.client, tally=tally) as writer:
        for _ in range(pick(3, 10) if storage == "nats-kv" else pick(2, 6)):
            wait_until(lambda: all(daemon.ready() for daemon in two.daemons), "both are ready", 30)
            received(two.client, 20)
            killed = two.serving
            pauses.append(two.kill())
            assert two.serving is not killed
            tally.survived += 1
            written(writer, 20)
            killed.launch()
    tally.note(f"{storage}: goes on after {min(pauses):.2f} to {max(pauses):.2f} s")
    assert max(pauses) < GOES_ON


def test_kill_during_initial_sync_restarts_it_at_the_other_daemon(
    loaded: Db, pair: Callable[..., Pair], nats: NatsServer, tally: Tally
) -> None:
    """zero-cache begins a new initial sync at the other daemon."""
    two = pair(shared(nats.url))
    clients = []
    with contextlib.ExitStack() as stack:
        with Writer(loaded.client, loaded.name, COLLECTIONS, threads=2, pause=PAUSE) as writer:
            writer.seed(5000)
            writer.start()
            for number in range(pick(2, 6)):
                wait_until(lambda: all(daemon.ready() for daemon in two.daemons), "both are ready", 30)
                killed, begun = two.serving, len(two.serving.log("initial sync started"))
                client = ChangeSourceClient(two.balancer.port, app=f"app{number}", again=True, receive_buffer=4096)
                clients.append(stack.enter_context(client))
                killed.wait_log("initial sync started", count=begun + 1)
                killed.kill()
                assert client.replica.version is None
                tally.survived += 1
                client.wait_initial()
                assert two.serving is not killed
                received(client, 5)
                killed.launch()
            writer.stop()
        for client in clients:
            settle(loaded, writer, client, tally=tally)


def changes(replica: Replica, after: str) -> tuple[list[Change], dict[str, int]]:
    """Return all changes above a watermark, and how many there were up to each commit."""
    found: list[Change] = []
    commits = {}
    for transaction in replica.transactions:
        if transaction.watermark > after:
            found += transaction.changes
            commits[transaction.watermark] = len(found)
    return found, commits


def test_two_daemons_send_the_same_changes_under_the_same_watermarks(
    loaded: Db, pair: Callable[..., Pair], nats: NatsServer, follow: Follow, tally: Tally
) -> None:
    """They may merge different numbers of changes into one transaction."""
    two = pair(shared(nats.url))
    clients = [follow(daemon, app=f"app{number}") for number, daemon in enumerate(two.daemons)]
    with load(loaded, two.client, *clients, tally=tally) as writer:
        written(writer, pick(500, 5000))
    begin = max(str(client.replica.version) for client in clients)
    (one, commits), (other, other_commits) = (changes(client.replica, begin) for client in clients)
    assert one == other
    common = commits.keys() & other_commits.keys()
    assert [commits[mark] for mark in common] == [other_commits[mark] for mark in common]
    tally.note(f"{len(one)} changes, {len(common)} common commits of {len(commits)} and {len(other_commits)}")
    assert len(common) > len(commits) / 2


def test_outage_of_nats_loses_nothing_and_heals(
    loaded: Db, pair: Callable[..., Pair], nats: NatsServer, follow: Follow, tally: Tally
) -> None:
    two = pair(shared(nats.url))

    def notes() -> list[bool]:
        answers = [daemon.get("/readyz") for daemon in two.daemons if daemon.running()]
        assert all(status == 200 for status, _ in answers)
        return ["NATS" in text for _, text in answers]

    with load(loaded, two.client, tally=tally) as writer:
        for _ in range(pick(1, 4)):
            received(two.client, 10)
            nats.kill()
            tally.survived += 1
            wait_until(lambda: all(notes()), "both say so, and are ready")
            # Clients connect, are served and move: the daemon uses its mirror, and writes later.
            with ChangeSourceClient(two.balancer.port, app="late") as late:
                late.wait_initial()
                received(late, 5)
            two.move()
            received(two.client, 10)
            killed = two.serving
            pause = two.kill()
            tally.survived += 1
            assert pause < GOES_ON
            written(writer, 50)
            nats.start()
            wait_until(lambda: not any(notes()), "it is caught up", 20)
            killed.start()
            received(two.client)
    last = two.client.replica.watermark
    wait_until(lambda: acks(loaded, "zero", nats.url) == [last], "the last acknowledgement is kept")
    tally.note(f"without NATS goes on after {pause:.2f} s")


def with_table(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the publication with one more table, of a collection that no writer uses."""
    schema, mappings = copy.deepcopy(SCHEMA), copy.deepcopy(MAPPINGS)
    schema[name] = copy.deepcopy(schema[COLLECTIONS[0]]) | {"tableName": name}
    mappings[name] = copy.deepcopy(mappings[COLLECTIONS[0]]) | {"collection": name}
    return schema, mappings


class Moving:
    """Moves the client of a pair back and forth."""

    def __init__(self, two: Pair) -> None:
        self._two = two
        self._stop = Event()
        self._thread = Thread(target=self._run)
        self.moves = 0

    def __enter__(self) -> Moving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        rng = chance(7)
        while not self._stop.wait(rng.random() * 0.5):
            self._two.move()
            self.moves += 1


def published(two: Pair) -> list[set[str]]:
    """Return the tables that each daemon publishes."""
    return [set(json.loads(daemon.get("/")[1])["tables"]) for daemon in two.daemons]


def reload(daemon: ZmsdProcess, table: str) -> None:
    daemon.write(*with_table(table))
    daemon.signal(signal.SIGHUP)


@pytest.mark.parametrize("catalogs", ["the same", "different ones"])
def test_reload_of_both_daemons_applies_each_schema_change_once(
    catalogs: str, loaded: Db, pair: Callable[..., Pair], nats: NatsServer, tally: Tally
) -> None:
    """They reload a second apart while the client moves between them; the later publication is in effect."""
    names = ("d", "d") if catalogs == "the same" else ("d", "e")
    for name in set(names):
        loaded[name].insert_many([{"_id": f"{name}{number}", "n": number} for number in range(20)])
    two = pair(shared(nats.url))
    base = set(SCHEMA)
    with load(loaded, two.client, tally=tally) as writer, Moving(two) as moving:
        for number in range(pick(1, 5)):
            for daemon, name in zip(two.daemons, names, strict=True):
                began = time.monotonic()
                reload(daemon, name)
                wait_until(lambda began=began: time.monotonic() - began > 1.0, "a second")
            wait_until(lambda: published(two) == [base | {names[-1]}] * 2, "both publish the same")
            two.client.wait_for(lambda replica: len(replica.rows.get(names[-1], ())) == 20, "the client has it", 60)
            written(writer, 20)
            if number < pick(1, 5) - 1:
                two.daemons[0].write(schema=SCHEMA, mappings=MAPPINGS)
                two.daemons[1].write(schema=SCHEMA, mappings=MAPPINGS)
                for daemon in two.daemons:
                    daemon.signal(signal.SIGHUP)
                wait_until(lambda: published(two) == [base] * 2, "both publish the same")
                two.client.wait_for(lambda replica: names[-1] not in replica.rows, "the client has it", 60)
            tally.survived += 1
    made = [change for one in two.client.replica.transactions for change in one.changes if change.tag == "create-table"]
    assert len(made) >= pick(1, 5)
    tally.note(f"{moving.moves} moves")
    if catalogs == "the same":
        assert len(known(loaded, nats.url).epochs) == 2 * pick(1, 5)


def test_simultaneous_reload_of_both_daemons_converges(
    loaded: Db, pair: Callable[..., Pair], nats: NatsServer, tally: Tally
) -> None:
    """With different schemas, either the second daemon follows the first one, or its own schema is published later."""
    two = pair(shared(nats.url))
    with load(loaded, two.client, tally=tally) as writer, Moving(two):
        for number in range(pick(1, 10)):
            for offset, daemon in enumerate(two.daemons):
                loaded.create_collection(f"t{2 * number + offset}")
                daemon.write(*with_table(f"t{2 * number + offset}"))
            for daemon in two.daemons:
                daemon.signal(signal.SIGHUP)
            for daemon in two.daemons:
                daemon.wait_log("reloaded", count=number + 1)
            names = (f"t{2 * number}", f"t{2 * number + 1}")
            either = [[set(SCHEMA) | {name}] * 2 for name in names]

            def agreed(either: list[list[set[str]]] = either) -> bool:
                """Wait for the client as well; the first publication may be in effect only briefly."""
                now = published(two)
                return now in either and now[0] - set(SCHEMA) <= two.client.replica.rows.keys()

            wait_until(agreed, "both publish the same, and the client has it", 60)
            written(writer, 20)
            tally.survived += 1


def test_start_with_an_earlier_publication_is_not_published(
    loaded: Db, pair: Callable[..., Pair], nats: NatsServer, tally: Tally
) -> None:
    loaded.d.insert_one({"_id": "d", "n": 1})
    two = pair(shared(nats.url))
    other = next(daemon for daemon in two.daemons if daemon is not two.serving)
    with load(loaded, two.client, tally=tally):
        reload(two.serving, "d")
        wait_until(lambda: all("d" in tables for tables in published(two)), "both publish the same")
        two.client.wait_for(lambda replica: "d" in replica.rows, "the client has it")
        assert other.log("serving another publication")
        other.stop()
        other.start()
        assert "d" in published(two)[1]
        assert other.log("this configuration is an older publication")
        two.move()
        received(two.client, 5)
        assert "d" in two.client.replica.rows
        other.signal(signal.SIGHUP)
        wait_until(lambda: not any("d" in tables for tables in published(two)), "both publish the same")
        two.client.wait_for(lambda replica: "d" not in replica.rows, "the client has it")
        tally.survived += 1


def test_death_of_the_nats_leader_loses_nothing(
    loaded: Db, pair: Callable[..., Pair], tmp_path: Path, tally: Tally
) -> None:
    """The node that is killed leads the bucket."""
    with NatsCluster(tmp_path / "cluster") as cluster:
        two = pair(shared(*cluster.urls, replicas=3))
        with load(loaded, two.client, tally=tally) as writer:
            for number in range(pick(1, 5)):
                leader = cluster.leader("zero-watermarks")
                leader.kill()
                tally.survived += 1
                with ChangeSourceClient(two.balancer.port, app=f"app{number}") as client:
                    client.wait_initial()
                    received(client, 5)
                wait_until(lambda: all(daemon.ready() for daemon in two.daemons), "both are ready", 30)
                began = time.monotonic()
                wait_until(lambda: not any("NATS" in one.get("/readyz")[1] for one in two.daemons), "it heals", 60)
                tally.note(f"NATS is back after {time.monotonic() - began:.1f} s")
                assert acks(loaded, f"app{number}", *cluster.urls)
                killed = two.serving
                pause = two.kill()
                assert pause < GOES_ON
                tally.survived += 1
                killed.launch()
                leader.start()
                written(writer, 20)
