"""GET /metrics of a real process, as Prometheus reads it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ADMIN, Client, ReplicaSet
from tests.support.types import Db, Follow, Serve
from tests.support.wait import FACTOR, wait_until
from zmsd.replication.dispatcher import STALLED_SECONDS


class Scrape(dict[str, float]):
    """Return ``name{label=value,…}`` -> number."""

    def __init__(self, zmsd: ZmsdProcess, headers: dict[str, str] | None = None) -> None:
        status, text = zmsd.get("/metrics", headers)
        assert status == 200
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families)
        for family in families:
            assert family.documentation
            assert family.type in ("counter", "gauge", "histogram")
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
                self[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value


def wait_scrape(zmsd: ZmsdProcess, fact: Callable[[Scrape], object], description: str, timeout: float = 30) -> Scrape:
    def scrape() -> Scrape | None:
        found = Scrape(zmsd)
        return found if fact(found) else None

    found = wait_until(scrape, description, timeout)
    assert found is not None
    return found


def looked(zmsd: ZmsdProcess, times: int) -> bool:
    return len(json.loads(zmsd.get("/status.json")[1])["history"]["when"]) >= times


def test_metrics_count_feed_and_client(database: Db, serve: Serve, follow: Follow) -> None:
    database.users.insert_many([{"_id": f"u{number}", "name": "x"} for number in range(100)])
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": "collection"}})
    before = Scrape(zmsd)
    assert before["zmsd_ready"] == 1
    assert before["zmsd_sessions{state=streaming}"] == 0
    assert not [name for name in before if name.startswith(("zmsd_session_", "zmsd_copy_", "zmsd_events"))]
    client = follow(zmsd)
    zmsd.wait_log("session ends")  # that of its copy
    wait_scrape(zmsd, lambda found: found["zmsd_sessions{state=streaming}"] == 1, "it streams")
    copied = Scrape(zmsd)
    assert copied["zmsd_sent_rows_total"] == 100
    assert copied["zmsd_sent_bytes_total"] > 100 * len('["data",{"tag":"insert"')
    assert copied["zmsd_lag_seconds_count"] == 0

    database.users.insert_many([{"_id": f"v{number}", "name": "x"} for number in range(20)])
    database.messages.insert_many([{"_id": n, "kind": kind} for n, kind in enumerate(("user", "image", "none"))])
    with database.client.start_session() as session, session.start_transaction():
        database.users.update_one({"_id": "u1"}, {"$set": {"name": "y"}}, session=session)
        database.rooms.insert_one({"_id": "r", "title": {"a": 1}}, session=session)
    database.users.delete_one({"_id": "v0"})
    client.wait_rows("room", 1)
    client.wait_rows("user", 119)
    # The dispatcher counts events after it has passed them on.
    found = wait_scrape(
        zmsd,
        lambda found: (
            found["zmsd_session_backlog_transactions{app=zero,shard=0}"] == 0
            and found.get("zmsd_events_total{collection=users}", 0) >= 22
        ),
        "all is sent and counted",
    )
    assert found["zmsd_events_total{collection=users}"] == 22
    assert found["zmsd_events_total{collection=messages}"] == 3
    assert found["zmsd_events_total{collection=rooms}"] == 1
    assert found["zmsd_rows_total{table=user}"] == 22
    assert found["zmsd_rows_total{table=userMessage}"] == 1
    assert found["zmsd_rows_total{table=imageMessage}"] == 1
    assert found["zmsd_rows_total{table=systemMessage}"] == 0
    assert found["zmsd_rows_total{table=room}"] == 1
    assert found["zmsd_rejected_rows_total{table=room,reason=object in string column title}"] == 1
    assert found["zmsd_transactions_total"] == 20 + 2 + 1 + 1
    assert found["zmsd_sent_rows_total"] == 100 + 20 + 2 + 2 + 1
    assert 1 <= found["zmsd_lag_seconds_count"] <= 24
    assert found["zmsd_lag_seconds_bucket{le=+Inf}"] == found["zmsd_lag_seconds_count"]
    assert found["zmsd_lag_seconds_sum"] < 60
    assert found["zmsd_session_backlog_seconds{app=zero,shard=0}"] == 0
    assert 0 <= found["zmsd_session_acked_age_seconds{app=zero,shard=0}"] < 30
    assert 0 <= found["zmsd_position_age_seconds"] < 30
    assert found["zmsd_log_bytes"] > 0
    queues = {name for name in found if name.startswith("zmsd_queue_fill_ratio")}
    readers = [f"collection-{name}" for name in ("users", "rooms", "messages")]
    assert queues == {f"zmsd_queue_fill_ratio{{reader={reader}}}" for reader in readers}
    assert all(0 <= found[name] <= 1 for name in queues)
    assert found["zmsd_resets_total"] == found["zmsd_reconnects_total"] == 0
    memory = int(Path(f"/proc/{zmsd.pid}/statm").read_text().split()[1]) * 4096
    assert abs(found["process_resident_memory_bytes"] - memory) < 20e6
    assert 0 <= time.time() - found["process_start_time_seconds"] < 300
    assert [name for name in found if name.startswith("zmsd_build_info{version=")]

    wait_scrape(zmsd, lambda found: "zmsd_oplog_headroom_seconds" in found, "the oplog has been looked at")
    assert Scrape(zmsd)["zmsd_oplog_headroom_seconds"] >= 0
    client.close()
    wait_scrape(zmsd, lambda found: found["zmsd_sessions{state=streaming}"] == 0, "it is gone")
    assert not [name for name in Scrape(zmsd) if name.startswith("zmsd_session_")]


def test_metrics_show_an_initial_sync(database: Db, serve: Serve, follow: Follow) -> None:
    database.users.insert_many([{"_id": f"u{number}", "name": "x" * 1000} for number in range(30_000)])
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd, wait=False, receive_buffer=4096)
    client.wait_connected(1)
    client.stop_reading()
    copying = "zmsd_copy_documents{app=zero,shard=0}"
    found = wait_scrape(zmsd, lambda found: found.get(copying), "it copies")
    assert found["zmsd_sessions{state=copying}"] == 1
    assert found["zmsd_copy_documents_expected{app=zero,shard=0}"] == 30_000
    assert found[copying] < 30_000
    assert "zmsd_session_backlog_seconds{app=zero,shard=0}" not in found
    client.go_on_reading()
    client.wait_initial()
    wait_scrape(zmsd, lambda found: copying not in found, "it is done")


def test_metrics_show_the_backlog_of_a_slow_client(database: Db, serve: Serve, follow: Follow) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd, receive_buffer=4096)
    client.stop_reading()
    # more than the buffers of both sockets hold
    for start in range(0, 20_000, 1000):
        database.users.insert_many([{"_id": start + number, "name": "x" * 1000} for number in range(1000)])
    backlog = "zmsd_session_backlog_{}{{app=zero,shard=0}}"
    found = wait_scrape(zmsd, lambda found: found[backlog.format("seconds")] > 2, "it is behind")
    assert found[backlog.format("transactions")] > 100
    client.go_on_reading()
    client.wait_rows("user", 20_000)
    wait_scrape(zmsd, lambda found: found[backlog.format("seconds")] == 0, "it has caught up")


def test_metrics_count_resets_and_reloads(database: Db, serve: Serve, follow: Follow) -> None:
    zmsd = serve(SCHEMA, MAPPINGS)
    client = follow(zmsd)
    zmsd.wait_log("session ends")  # that of its copy
    zmsd.write(mappings={"nothing": {"collection": "x"}})
    zmsd.signal(signal.SIGHUP)
    wait_scrape(zmsd, lambda found: found["zmsd_reloads_total{result=refused}"] == 1, "refused")
    schema = {**SCHEMA, "user": {**SCHEMA["user"], "primaryKey": ["id", "name"]}}
    zmsd.write(schema, MAPPINGS)
    zmsd.signal(signal.SIGHUP)
    client.wait_for(lambda replica: replica.reset_required, "reset-required")
    found = Scrape(zmsd)
    assert found["zmsd_reloads_total{result=ok}"] == 1
    assert found["zmsd_reloads_total{result=refused}"] == 1
    assert found["zmsd_resets_total"] == 1


def test_metrics_show_an_outage_of_mongodb(tmp_path: Path) -> None:
    with ReplicaSet(tmp_path / "mongod") as replica_set:
        (node,) = replica_set.nodes
        with ZmsdProcess(tmp_path / "zmsd", replica_set.uri("db"), SCHEMA, MAPPINGS).start() as zmsd:
            node.stop()
            found = wait_scrape(zmsd, lambda found: found["zmsd_ready"] == 0, "not ready")
            wait_scrape(zmsd, lambda found: found["zmsd_reconnects_total"] > 3, "it tries again")
            start = time.monotonic()
            found = Scrape(zmsd)
            assert time.monotonic() - start < 2 * FACTOR, "a scrape does not wait"
            older = found["zmsd_position_age_seconds"]
            wait_scrape(zmsd, lambda found: found["zmsd_position_age_seconds"] > older + 1, "its position ages")
            wait_scrape(zmsd, lambda found: found["zmsd_progress_age_seconds"] > STALLED_SECONDS + 3, "no progress", 30)
            assert not zmsd.log("no progress"), "the error of the feed says enough"
            assert "made no progress" not in zmsd.get("/readyz")[1]
            node.start()
            wait_scrape(zmsd, lambda found: found["zmsd_ready"] == 1, "ready again", 60)


def test_metrics_without_oplog_privilege_omit_headroom(tmp_path: Path) -> None:
    with ReplicaSet(tmp_path / "mongod", auth=True) as replica_set:
        admin: Client
        with replica_set.client() as admin:
            admin.admin.command("createUser", "reader", pwd="p", roles=[{"role": "read", "db": "db"}])
        for user, known in ((ADMIN, True), (("reader", "p"), False)):
            uri = replica_set.uri("db", user)
            with ZmsdProcess(tmp_path / user[0], uri, {"user": SCHEMA["user"]}).start() as zmsd:
                # The first check of the oplog comes with the first sample of the history.
                wait_until(partial(looked, zmsd, 2), "two looks")
                assert ("zmsd_oplog_headroom_seconds" in Scrape(zmsd)) is known
                assert not zmsd.log("metric cannot be read|monitor failed")
