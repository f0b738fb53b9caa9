from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from zmsd.errors import StoreError
from zmsd.feed import position
from zmsd.watermarks import sqlite
from zmsd.watermarks.sqlite import SqliteStore
from zmsd.watermarks.store import CopyRecord, Identity, ShardRecord, WatermarkStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory" / "watermarks.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


def mark(number: int) -> str:
    return position.watermark(number)


def test_it_is_a_watermark_store(store: SqliteStore) -> None:
    """Each method of the protocol is there, and nothing is known at first."""
    kept: WatermarkStore = store
    assert kept.shards() == {}
    assert kept.shard("zero", 0) is None
    assert kept.copy_before("zero", 0, mark(9)) is None
    assert kept.checkpoint_before(mark(9)) is None
    assert kept.identity() is None
    assert kept.valid_from() is None
    assert kept.edition("f") is None


def test_what_is_kept_outlives_the_process(store: SqliteStore, path: Path) -> None:
    store.copied_first("zero", 0, CopyRecord(mark(5), mark(7), "edition 1"))
    store.copied("zero", 0, CopyRecord(mark(20), mark(20), "edition 2"))
    store.acked("zero", 0, mark(9))
    store.checkpoint(mark(9), "token")
    store.identify(Identity("set", {"a": "uuid"}))
    store.invalidate(mark(3), "another database")
    store.add_edition("edition 1", '["ü"]')
    store.close()
    again = SqliteStore(path)
    assert again.shard("zero", 0) == ShardRecord(mark(5), mark(9))
    assert again.copy_before("zero", 0, mark(19)) == CopyRecord(mark(5), mark(7), "edition 1")
    assert again.copy_before("zero", 0, mark(20)) == CopyRecord(mark(20), mark(20), "edition 2")
    assert again.checkpoint_before(mark(9)) == (mark(9), "token")
    assert again.identity() == Identity("set", {"a": "uuid"})
    assert again.valid_from() == (mark(3), "another database")
    assert again.edition("edition 1") == '["ü"]'
    again.close()


def test_what_was_confirmed_survives_a_kill(store: SqliteStore, path: Path) -> None:
    """Another connection sees it at once, without the first one being closed."""
    store.copied_first("zero", 0, CopyRecord(mark(5), mark(5), "e"))
    store.acked("zero", 0, mark(6))
    other = SqliteStore(path)
    assert other.shards() == {("zero", 0): ShardRecord(mark(5), mark(6))}
    other.close()


def test_each_shard_is_its_own(store: SqliteStore) -> None:
    for app, number in (("zero", 0), ("zero", 1), ("other", 0)):
        store.copied_first(app, number, CopyRecord(mark(5 + number), mark(5), app))
    store.acked("zero", 1, mark(9))
    store.acked("unknown", 0, mark(9))
    store.copied("other", 0, CopyRecord(mark(8), mark(8), "more"))
    assert store.shards() == {
        ("zero", 0): ShardRecord(mark(5), None),
        ("zero", 1): ShardRecord(mark(6), mark(9)),
        ("other", 0): ShardRecord(mark(5), None),
    }
    assert store.copy_before("zero", 0, mark(99)) == CopyRecord(mark(5), mark(5), "zero")


def test_a_first_copy_makes_void_what_was_known_of_the_shard(store: SqliteStore) -> None:
    store.copied_first("zero", 0, CopyRecord(mark(5), mark(7), "old"))
    store.copied("zero", 0, CopyRecord(mark(20), mark(20), "old"))
    store.acked("zero", 0, mark(21))
    store.copied_first("zero", 0, CopyRecord(mark(10), mark(10), "new"))
    assert store.shard("zero", 0) == ShardRecord(mark(10), None)
    assert store.copy_before("zero", 0, mark(9)) is None
    assert store.copy_before("zero", 0, mark(99)) == CopyRecord(mark(10), mark(10), "new")


def test_a_copy_may_be_sent_again(store: SqliteStore) -> None:
    store.copied_first("zero", 0, CopyRecord(mark(5), mark(5), "a"))
    store.copied_first("zero", 0, CopyRecord(mark(5), mark(6), "b"))
    store.copied("zero", 0, CopyRecord(mark(7), mark(7), "b"))
    store.copied("zero", 0, CopyRecord(mark(7), mark(8), "c"))
    assert store.copy_before("zero", 0, mark(7)) == CopyRecord(mark(7), mark(8), "c")


def test_checkpoints_are_found_from_any_watermark_behind_them(store: SqliteStore) -> None:
    for number in (10, 36, 50):
        store.checkpoint(mark(number), f"token {number}")
    assert store.checkpoint_before(mark(9)) is None
    assert store.checkpoint_before(mark(10)) == (mark(10), "token 10")
    assert store.checkpoint_before(mark(35)) == (mark(10), "token 10"), "0z is below 110"
    assert store.checkpoint_before(position.watermark(36, 1)) == (mark(36), "token 36")
    assert store.checkpoint_before(mark(10**15)) == (mark(50), "token 50")


def test_checkpoints_far_behind_all_acks_are_forgotten(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_CHECKPOINTS", 3)
    store.copied_first("zero", 0, CopyRecord(mark(4), mark(4), "e"))
    store.copied_first("zero", 1, CopyRecord(mark(1), mark(1), "e"))
    store.acked("zero", 0, mark(100))
    for number in range(20):
        store.checkpoint(mark(number), str(number))
    assert store.checkpoint_before(mark(1)) == (mark(1), "1"), "shard 1 has confirmed nothing yet"
    assert store.checkpoint_before(mark(0)) is None
    store.acked("zero", 1, mark(10))
    store.checkpoint(mark(20), "20")
    assert store.checkpoint_before(mark(9)) is None
    assert store.checkpoint_before(mark(10)) == (mark(10), "10")
    store.acked("zero", 1, mark(20))
    store.checkpoint(mark(21), "21")
    assert store.checkpoint_before(mark(17)) is None
    assert store.checkpoint_before(mark(18)) == (mark(18), "18"), "some are kept in any case"


def test_an_edition_stays_what_it_was(store: SqliteStore) -> None:
    store.add_edition("f", "one")
    store.add_edition("f", "other")
    assert store.edition("f") == "one"


def test_an_identity_may_be_unknown_in_part(store: SqliteStore) -> None:
    store.identify(Identity(None, {}))
    assert store.identity() == Identity(None, {})
    store.identify(Identity("set", {"b": "2", "a": "1"}))
    assert store.identity() == Identity("set", {"a": "1", "b": "2"})


def test_many_threads_may_use_it(store: SqliteStore) -> None:
    store.copied_first("zero", 0, CopyRecord(mark(0), mark(0), "e"))
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(50):
                at = mark(thread * 1000 + number)
                store.checkpoint(at, at)
                store.acked("zero", 0, at)
                assert store.checkpoint_before(at) == (at, at)
                store.copied("zero", thread, CopyRecord(at, at, "e"))
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors


def garbage(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database at all, but long enough to be one" * 20)


def newer(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def directory(path: Path) -> None:
    path.mkdir(parents=True)


def file_in_the_way(path: Path) -> None:
    path.parent.write_text("")


@pytest.mark.parametrize(
    ("spoil", "advice"),
    [
        (garbage, "move the file away and start again"),
        (newer, "written by a newer zmsd .store version 99"),
        (directory, "see that the directory exists"),
        (file_in_the_way, "see that the directory exists"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(path: Path, spoil: Callable[[Path], None], advice: str) -> None:
    spoil(path)
    with pytest.raises(StoreError, match=advice) as caught:
        SqliteStore(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_newer_file_is_left_as_it_is(path: Path) -> None:
    newer(path)
    before = path.read_bytes()
    with pytest.raises(StoreError):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    store.copied_first("zero", 0, CopyRecord(mark(5), mark(5), "e"))
    store.close()
    steps = sqlite._MIGRATIONS
    monkeypatch.setattr(sqlite, "_MIGRATIONS", (*steps, "CREATE TABLE more (x); CREATE TABLE shard (x);"))
    with pytest.raises(StoreError, match="shard already exists"):
        SqliteStore(path)
    gc.collect()  # as the end of the process does it: the connection still holds its transaction
    monkeypatch.setattr(sqlite, "_MIGRATIONS", (*steps, "CREATE TABLE more (x);", "ALTER TABLE more ADD y;"))
    for _ in range(2):
        again = SqliteStore(path)
        assert again.shard("zero", 0) == ShardRecord(mark(5), None)
        again.close()


def test_a_file_of_an_older_zmsd(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_MIGRATIONS", sqlite._MIGRATIONS[:1])
    store = SqliteStore(path)
    store._write("INSERT INTO identity VALUES (1, 'set', '{}')")
    store.close()
    monkeypatch.undo()
    again = SqliteStore(path)
    assert again.identity() == Identity("set", {}, None)
    again.identify(Identity("set", {}, "db"))
    assert again.identity() == Identity("set", {}, "db")
    again.close()


def test_one_serves_and_others_may_look(path: Path) -> None:
    serving = SqliteStore(path, serves=True)
    with pytest.raises(StoreError, match=r"used by another zmsd .*watermarks\.path"):
        SqliteStore(path, serves=True)
    tool = SqliteStore(path)
    tool.copied_first("zero", 0, CopyRecord(mark(5), mark(5), "e"))
    tool.close()
    serving.acked("zero", 0, mark(6))
    serving.close()
    next_one = SqliteStore(path, serves=True)
    assert next_one.shard("zero", 0) == ShardRecord(mark(5), mark(6))
    next_one.close()


def test_after_it_was_closed(store: SqliteStore) -> None:
    store.close()
    for use in (store.shards, lambda: store.acked("zero", 0, mark(1)), lambda: store.checkpoint(mark(1), "t")):
        with pytest.raises(StoreError):
            use()
