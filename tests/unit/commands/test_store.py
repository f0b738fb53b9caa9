"""``zmsd store``: what is shown, copied and pruned. Integration tests copy between sqlite and NATS."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.main_thread import write_settings
from tests.unit.fakes import START, FakeStore
from zmsd import position
from zmsd.commands.store import _opened, copy, fill, prune, render, show
from zmsd.config.settings import Config, MongodbConfig, WatermarksConfig
from zmsd.errors import StoreError
from zmsd.position import watermark as mark
from zmsd.schema.catalog import Catalog
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import CopyRecord, Identity, Replica, ReplicaRecord
from zmsd.watermarks.sqlite import SqliteStore

USED, UNUSED = Publication(Catalog(()), "used"), Publication(Catalog(()), "unused")


def at(days_ago: float) -> str:
    """Return the watermark of a time that many days ago."""
    return mark(int(time.time() - days_ago * 86400) << 32)


def initial_sync(watermark: str, publication: Publication = USED) -> CopyRecord:
    return CopyRecord(watermark, watermark, publication.fingerprint)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a settings file whose store has an old replica and a new one."""
    store = SqliteStore(tmp_path / "watermarks.db")
    for one in (USED, UNUSED):
        store.save_publication(one.fingerprint, one.to_json())
    for shard, days, publication in ((0, 1, USED), (1, 50, UNUSED)):
        replica = Replica("zero", shard, at(days))
        store.record_copy(replica, initial_sync(replica.version, publication))
    store.close()
    return write_settings(tmp_path)


def test_contents_of_a_store_are_shown() -> None:
    store = FakeStore()
    replica = Replica("zero", 0, mark(START))
    store.identity = Identity("set", {"a": "1", "b": "2"}, "chat")
    store.invalid = mark(START - (60 << 32)), "another database"
    store.published = ["a" * 64, USED.fingerprint]
    store.publications = {USED.fingerprint: USED.to_json()}
    change = CopyRecord(mark(START, 1), mark(START + 5), USED.fingerprint)
    store.records = {replica: ReplicaRecord(mark(START, 1), (initial_sync(mark(START)), change))}
    store.checkpoints = {mark(START): "82", mark(START + 9): "82"}
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(START >> 32))
    short = USED.fingerprint[:12]
    assert list(render(store.contents(), time.time()))[2:] == [
        "epoch 1: publication aaaaaaaaaaaa",
        f"epoch 2: publication {short}, published now",
        f"publication {short}: ",
        f"replica zero_0 {mark(START)}:",
        f"  acknowledged {mark(START, 1)} ({when})",
        f"  initial sync {mark(START)} ({when}): {short}",
        f"  schema change {mark(START, 1)} ({when}): {short}, includes changes up to {mark(START + 5)}",
        f"resume tokens: 2, {mark(START)} ({when}) and later",
    ]
    assert next(render(store.contents(), 0.0)) == "database chat: replica set set, 2 collections"
    assert list(render(FakeStore().contents(), 0.0)) == []


def test_store_of_the_settings_is_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(file, {}) == 0
    assert "replica zero_0" in capsys.readouterr().out


def test_store_needs_no_other_settings(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_settings(tmp_path, feed={"heartbeat": -1}, server={"port": 0, "token_file": "none"}, schema={"file": "none"})
    assert show(file, {}) == 0
    assert "replica zero_0" in capsys.readouterr().out


def test_store_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    file = write_settings(tmp_path)
    for command in (lambda: show(file, {}), lambda: prune(file, {}, 30), lambda: copy(file, {}, "nats-kv")):
        with pytest.raises(StoreError, match="there is no store"):
            command()
    assert not (tmp_path / "watermarks.db").exists()
    with pytest.raises(StoreError, match="the settings name no NATS"):
        copy(file, {}, "sqlite")


def test_replica_without_an_ack_for_long_is_pruned(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(file, {}, 60) == 0
    assert capsys.readouterr().out == "0 replicas and 0 publications removed, 2 and 2 kept\n"
    assert prune(file, {}, 30) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("removed: zero_1 ")
    assert lines[0].endswith("no ack for 50 days")
    assert lines[1] == "1 replicas and 1 publications removed, 1 and 1 kept"


def test_copy_has_the_tokens_that_check_positions() -> None:
    source, target = FakeStore(), FakeStore()
    replica = Replica("zero", 0, mark(10))
    source.records = {replica: ReplicaRecord(mark(25), (initial_sync(mark(10)), initial_sync(mark(20))))}
    source.checkpoints = {mark(number): str(number) for number in (5, 15, 24, 26, 40)}
    source.identity, source.invalid = Identity(None, {}, "chat"), (mark(1), "why")
    source.publications = {"f": "{}"}
    fill(target, source.contents())
    assert target.records == source.records
    assert sorted(target.checkpoints.values()) == ["24", "40"], "the newest one, and the last one before the replica's"
    assert (target.identity, target.invalid, target.publications) == (source.identity, source.invalid, {"f": "{}"})
    assert position.parse(target.records[replica].newest) == (25, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_store_made_by_root_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 61234, 61234)
    file = tmp_path / "watermarks.db"
    settings = Config(mongodb=MongodbConfig(database="db"), watermarks=WatermarksConfig(path=file))
    with _opened(settings, "sqlite", make=True):
        assert {path.stat().st_uid for path in tmp_path.iterdir()} == {61234}, "also those that sqlite makes"
    assert file.stat().st_gid == 61234
