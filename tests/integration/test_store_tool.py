"""``zmsd store``: show, copy, prune."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.chat import MAPPINGS, SCHEMA
from tests.support.daemon import run_zmsd
from tests.support.nats import NatsServer
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until
from zmsd import position
from zmsd.config.settings import NatsConfig
from zmsd.schema.catalog import Catalog
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import Contents, CopyRecord, Identity, Replica, WatermarkStore
from zmsd.watermarks.nats import SharedStore
from zmsd.watermarks.sqlite import SqliteStore

EDITIONS = [Publication(Catalog(()), name) for name in ("old", "new", "unused")]


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, nats: NatsServer) -> Path:
    file = tmp_path / "zmsd.yaml"
    settings = {
        "mongodb": {"uri": "mongodb://127.0.0.1/db"},
        "schema": {"file": "schema.json"},
        "watermarks": {"path": "watermarks.db"},
        "nats": {"servers": [nats.url]},
    }
    file.write_text(yaml.safe_dump(settings))
    return file


def ago(days: float, increment: int = 1) -> str:
    return position.watermark(int(time.time() - days * 86400) << 32 | increment)


ZERO = Replica("zero", 0, ago(20))
GONE = Replica("gone", 3, ago(50))


def fill(store: WatermarkStore) -> None:
    for edition in EDITIONS:
        store.save_publication(edition.fingerprint, edition.to_json())
    old, new, _ = (edition.fingerprint for edition in EDITIONS)
    store.record_copy(ZERO, CopyRecord(ago(20), ago(20, 2), old))
    store.record_copy(ZERO, CopyRecord(ago(10), ago(10), new))
    store.record_ack(ZERO, ago(1.5))
    store.record_copy(GONE, CopyRecord(ago(50), ago(50), old))
    store.record_ack(GONE, ago(40))
    store.save_identity(Identity("set", {"a": "uuid"}))
    store.invalidate(ago(60), "another database")
    for number in range(10):
        store.record_checkpoint(ago(10 - number), f"82{number:016x}")
    store.close()


def contents(store: WatermarkStore) -> Contents:
    found = store.contents()
    store.close()
    return found


def zmsd(config: Path, *arguments: str) -> str:
    done = run_zmsd("store", *arguments, "--config", str(config), cwd=config.parent)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_copy_from_sqlite_to_nats_and_back_keeps_all(config: Path, nats: NatsServer) -> None:
    file = config.parent / "watermarks.db"
    fill(SqliteStore(file))
    before = contents(SqliteStore(file))
    assert zmsd(config, "copy", "--to", "nats-kv") == "2 replicas and 3 publications copied to nats-kv\n"
    there = contents(SharedStore(NatsConfig((nats.url,)), "db"))
    needed = sorted(before.checkpoints)[-2:]  # the token that checks zero_0's position, and the newest; gone_3 has none
    assert there == before._replace(checkpoints={mark: before.checkpoints[mark] for mark in needed})
    done = run_zmsd("store", "copy", "--to", "nats-kv", "--config", str(config), cwd=config.parent)
    assert (done.returncode, done.stderr) == (
        1,
        "error: the store nats-kv has replicas already: nothing was copied\n",
    )
    file.unlink()
    zmsd(config, "copy", "--to", "sqlite")
    assert contents(SqliteStore(file)) == there


def test_prune_removes_old_replicas_and_unused_publications(config: Path) -> None:
    file = config.parent / "watermarks.db"
    fill(SqliteStore(file))
    assert zmsd(config, "prune").splitlines() == [
        f"removed: gone_3 {GONE.version}, no ack for 40 days",
        "1 replicas and 1 publications removed, 1 and 2 kept",
    ]
    kept = contents(SqliteStore(file))
    assert set(kept.replicas) == {ZERO}
    assert set(kept.publications) == {edition.fingerprint for edition in EDITIONS[:2]}
    assert "0 replicas and 0 publications removed" in zmsd(config, "prune")


def test_show_and_prune_work_beside_a_daemon(
    config: Path,
    nats: NatsServer,
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    settings = {"watermarks": {"storage": "nats-kv"}, "nats": {"servers": [nats.url]}}
    daemon = serve(SCHEMA, MAPPINGS, settings=settings)
    client = follow(daemon)
    database.users.insert_one({"_id": "u", "name": "n"})
    client.wait_rows("user", 1)
    fingerprint = contents(SharedStore(NatsConfig((nats.url,)), database.name)).epochs[0][:12]
    parts = (
        f"epoch 1: publication {fingerprint}, published now\n",
        f"replica zero_0 {client.replica.version}:\n  acknowledged " + client.replica.watermark,
        f"  initial sync {client.replica.version} (",
        f"publication {fingerprint}: ",
        "resume tokens: 1, ",
    )

    def missing() -> list[str]:
        shown = zmsd(daemon.config_file, "show")
        return [part for part in parts if part not in shown]

    # The client acknowledges shortly after it has the row, and the daemon does not wait for NATS.
    wait_until(lambda: not missing(), "the tool shows it all")
    assert zmsd(daemon.config_file, "prune") == "0 replicas and 0 publications removed, 1 and 1 kept\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show"], "there is no store"),
        (["copy", "--to", "nats-kv"], "there is no store"),
    ],
)
def test_missing_store_is_an_error_of_one_line(config: Path, arguments: list[str], said: str) -> None:
    done = run_zmsd("store", *arguments, "--config", str(config), cwd=config.parent)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (config.parent / "watermarks.db").exists()


def test_unreachable_nats_is_an_error_of_one_line(config: Path, nats: NatsServer) -> None:
    fill(SqliteStore(config.parent / "watermarks.db"))
    nats.kill()
    done = run_zmsd("store", "copy", "--to", "nats-kv", "--config", str(config), cwd=config.parent)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: NATS at 127.0.0.1:")
