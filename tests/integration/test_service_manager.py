"""The messages to systemd over a real NOTIFY_SOCKET, and SIGUSR1."""

from __future__ import annotations

import re
import signal
import socket
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.daemon import ZmsdProcess
from tests.support.manager import ServiceManager
from tests.support.mongod import ReplicaSet
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR, wait_until


@pytest.mark.long
def test_service_manager_is_notified_from_start_to_stop(tmp_path: Path, follow: Follow) -> None:
    with ReplicaSet(tmp_path / "mongod") as replica_set, ServiceManager(watchdog_seconds=2) as manager:
        node = replica_set.nodes[0]
        node.stop()
        uri = replica_set.uri("talk")
        with ZmsdProcess(tmp_path / "zmsd", uri, SCHEMA, MAPPINGS, environment=manager.environment) as zmsd:
            zmsd.launch()
            manager.wait("STATUS", node.address)
            manager.wait("WATCHDOG", "1", count=3)  # the dispatcher waits in a retry of its own
            # A reload at this time must not count as the end of the start.
            zmsd.signal(signal.SIGHUP)
            zmsd.wait_log("reloaded")
            assert not manager.having("READY")
            assert not manager.having("RELOADING")
            # systemctl start returns although MongoDB is away; the reason is in the status
            (ready,) = manager.wait("READY", "1", timeout=20)
            assert ready.when - manager.messages[0].when < 20 * FACTOR
            assert node.address in ready.fields["STATUS"]
            mark = len(manager.messages)
            manager.wait("STATUS", node.address, after=mark, timeout=15)  # repeated
            assert all(message.fields["STATUS"].startswith("not ready: ") for message in manager.having("STATUS"))

            node.start()
            manager.wait("STATUS", "serving 3 collections, no client is connected", after=mark, timeout=60)
            assert zmsd.ready()
            client = follow(zmsd)
            zmsd.wait_log("session ends")  # that of its copy
            manager.wait("STATUS", "serving 3 collections to 1 client")
            mark = len(manager.messages)
            manager.wait("STATUS", "serving 3 collections to 1 client", after=mark, timeout=15)  # said again

            reload(zmsd, manager, good=True)
            zmsd.write(mappings={"nothing": {"collection": "x"}})
            reload(zmsd, manager, good=False)
            zmsd.write(mappings=MAPPINGS)
            reload(zmsd, manager, good=True)

            mark = len(manager.messages)
            node.stop()
            manager.wait("STATUS", "not ready: ", after=mark)
            manager.wait("STATUS", "; 1 client waiting", after=mark)
            manager.wait("WATCHDOG", "1", after=mark, count=4)
            node.start()
            manager.wait("STATUS", "serving 3 collections to 1 client", after=mark, timeout=60)
            assert not manager.having("READY", after=mark), "it has been ready all the time, for systemd"

            client.close()
            assert zmsd.stop() == 0
            last = manager.wait("STOPPING", "1")[-1]
            assert manager.messages[-1] == last
            fed = [message.when for message in manager.having("WATCHDOG", "1")]
            assert max(later - earlier for earlier, later in zip(fed, fed[1:], strict=False)) < 2 * FACTOR


def reload(zmsd: ZmsdProcess, manager: ServiceManager, *, good: bool) -> None:
    mark, before = len(manager.messages), time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    zmsd.signal(signal.SIGHUP)
    (ready,) = manager.wait("READY", "1", after=mark)
    (reloading,) = manager.having("RELOADING", "1", after=mark)
    assert manager.messages.index(reloading) < manager.messages.index(ready)
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(reloading.fields["MONOTONIC_USEC"]) <= after
    assert ("the last reload was refused" in ready.fields["STATUS"]) is not good
    assert ready.fields["STATUS"].startswith("serving 3 collections to 1 client")


def test_watchdog_is_fed_during_a_long_reload(database: Db, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mappings' endpoint accepts the connection and does not answer; a request gives up after ten seconds."""
    monkeypatch.setenv("no_proxy", "*")
    with ServiceManager(watchdog_seconds=2) as manager, socket.create_server(("127.0.0.1", 0)) as silent:
        zmsd = serve(SCHEMA, MAPPINGS, environment=manager.environment)
        settings = yaml.safe_load(zmsd.config_file.read_text())
        settings["mappings"] = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/mappings"}
        zmsd.config_file.write_text(yaml.safe_dump(settings))
        manager.wait("READY", "1")
        mark = len(manager.messages)
        zmsd.signal(signal.SIGHUP)
        manager.wait("RELOADING", "1", after=mark)
        zmsd.signal(signal.SIGHUP)  # follows the first
        zmsd.wait_log("reload refused.*no answer within 10 s", timeout=30)
        zmsd.config_file.write_text(yaml.safe_dump({**settings, "mappings": {"file": "mappings.json"}}))
        zmsd.wait_log("reload refused|reloaded", count=2, timeout=30)
        manager.wait("READY", "1", after=mark, count=2)
        fed = [message.when for message in manager.having("WATCHDOG", "1")]
        assert max(later - earlier for earlier, later in pairwise(fed)) < 2 * FACTOR


def test_watchdog_is_not_fed_when_the_feed_hangs(database: Db, serve: Serve, tmp_path: Path) -> None:
    """A sitecustomize module makes the dispatcher of this process hang."""
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    with ServiceManager(watchdog_seconds=2) as manager:
        environment = {**manager.environment, "PYTHONPATH": f"{Path(__file__).resolve().parents[2]}:{tmp_path}"}
        zmsd = serve(SCHEMA, MAPPINGS, environment=environment)
        manager.wait("WATCHDOG", "1", count=3)
        database.users.insert_one({"_id": "hang"})

        def silent() -> bool:
            return time.monotonic() - manager.having("WATCHDOG", "1")[-1].when > 3

        wait_until(silent, "the watchdog is not fed any more", 30)
        assert zmsd.get("/healthz")[0] == 200, "all but the feed goes on"


HANGING = """
import time
from zmsd.replication import dispatcher, entries as builders

assert dispatcher.HANGING_SECONDS > 2.0
dispatcher.HANGING_SECONDS = 2.0
entries = builders.EntryBuilder.entries
builders.EntryBuilder.entries = lambda self, parts: time.sleep(1000) if parts else entries(self, parts)
"""


def test_sigusr1_logs_every_thread_and_the_queues(database: Db, serve: Serve, follow: Follow) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": "collection"}})
    follow(zmsd)
    zmsd.wait_log("session ends")  # that of its copy
    zmsd.wait_log("session begins", count=2)
    zmsd.signal(signal.SIGUSR1)
    (line,) = zmsd.wait_log(r"queues ")
    for reader in ("collection-users", "collection-rooms", "collection-messages"):
        assert re.search(rf" {reader}=\d/2", line)
    assert re.search(r" log_bytes=\d+ sessions=1$", line)
    named = {line.rpartition("stack of thread ")[2].rstrip(":") for line in zmsd.log("stack of thread")}
    assert {"MainThread", "dispatcher", "monitor", "listener", "collection-users", "session-2"} <= named
    text = zmsd.stderr()
    assert text.index("in dump") < text.index("queues "), "the stacks themselves"
    assert "mongodb/reader.py" in text
    database.users.insert_one({"_id": "ann"})
    assert zmsd.ready()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_signal_before_ready_is_harmless(number: signal.Signals, database: Db, serve: Serve) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, start=False).start(ready=False)
    zmsd.signal(number)
    wait_until(zmsd.ready, "zmsd is ready", 30)
