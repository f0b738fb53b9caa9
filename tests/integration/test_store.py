"""What every watermark store does: sqlite's, and that of NATS."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.support.nats import NatsServer
from tests.support.wait import wait_until
from zmsd.config.settings import NatsConfig
from zmsd.errors import StoreError
from zmsd.position import watermark as mark
from zmsd.watermarks import nats, sqlite
from zmsd.watermarks.base import COPIES, Contents, CopyRecord, Identity, ShardRecord, WatermarkStore
from zmsd.watermarks.nats import SharedStore
from zmsd.watermarks.sqlite import SqliteStore

Open = Callable[[], WatermarkStore]
KINDS = ("sqlite", "nats-kv")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(params=KINDS)
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store, as often as it is called; closed in the end."""
    opened: list[WatermarkStore] = []

    def another() -> WatermarkStore:
        if request.param == "sqlite":
            opened.append(SqliteStore(tmp_path / "watermarks.db"))
        else:
            url = request.getfixturevalue("server").url
            opened.append(SharedStore(NatsConfig((url,), f"bucket-{tmp_path.name}"), "db"))
        return opened[-1]

    yield another
    for store in opened:
        store.close()


@pytest.fixture
def store(another: Open) -> WatermarkStore:
    return another()


def copy(at: int, edition: str = "e", stream_from: int | None = None) -> CopyRecord:
    return CopyRecord(mark(at), mark(at if stream_from is None else stream_from), edition)


def test_nothing_is_known_at_first(store: WatermarkStore) -> None:
    assert store.trouble is None
    assert store.shards() == {}
    assert store.shard("zero", 0) is None
    assert store.copy_before("zero", 0, mark(9)) is None
    assert store.checkpoint_before(mark(9)) is None
    assert store.identity() is None
    assert store.valid_from() is None
    assert store.edition("f") is None
    assert store.epochs() == ()
    store.forget_copies_above("zero", 0, mark(1))
    assert store.contents() == Contents({}, {}, {}, {}, (), None, None)


def fill(store: WatermarkStore) -> None:
    store.copied_first("zero", 0, copy(5, "edition 1", 7))
    store.copied("zero", 0, copy(20, "edition 2"))
    store.acked("zero", 0, mark(9))
    store.checkpoint(mark(9), "token")
    store.identify(Identity("set", {"a": "uuid"}))
    store.invalidate(mark(3), "another database")
    store.add_edition("edition 1", '["ü"]')


FILLED = Contents(
    {("zero", 0): ShardRecord(mark(5), mark(9))},
    {("zero", 0): [copy(5, "edition 1", 7), copy(20, "edition 2")]},
    {mark(9): "token"},
    {"edition 1": '["ü"]'},
    (),
    Identity("set", {"a": "uuid"}),
    (mark(3), "another database"),
)


def test_what_is_kept_outlives_the_process(store: WatermarkStore, another: Open) -> None:
    fill(store)
    store.close()
    again = another()
    assert again.shard("zero", 0) == ShardRecord(mark(5), mark(9))
    assert again.copy_before("zero", 0, mark(4)) is None
    assert again.copy_before("zero", 0, mark(19)) == copy(5, "edition 1", 7)
    assert again.copy_before("zero", 0, mark(20)) == copy(20, "edition 2")
    assert again.checkpoint_before(mark(9)) == (mark(9), "token")
    assert again.identity() == Identity("set", {"a": "uuid"})
    assert again.valid_from() == (mark(3), "another database")
    assert again.edition("edition 1") == '["ü"]'
    assert again.contents() == FILLED


def test_what_was_written_is_seen_elsewhere(store: WatermarkStore, another: Open) -> None:
    """And what a client's place is looked up with is seen at once."""
    other = another()
    store.copied_first("zero", 0, copy(5))
    assert other.copy_before("zero", 0, mark(9)) == copy(5)
    store.copied("zero", 0, copy(7))
    assert other.copy_before("zero", 0, mark(9)) == copy(7)
    store.add_edition("f", "document")
    assert other.edition("f") == "document"
    store.acked("zero", 0, mark(6))
    wait_until(lambda: other.shards() == {("zero", 0): ShardRecord(mark(5), mark(6))}, "the other one sees it")


def test_each_shard_is_its_own(store: WatermarkStore) -> None:
    for app, number in (("zero", 0), ("zero", 1), ("other_app", 0)):
        store.copied_first(app, number, CopyRecord(mark(5 + number), mark(5), app))
    store.acked("zero", 1, mark(9))
    store.acked("unknown", 0, mark(9))
    store.copied("other_app", 0, copy(8, "more"))
    assert store.shards() == {
        ("zero", 0): ShardRecord(mark(5), None),
        ("zero", 1): ShardRecord(mark(6), mark(9)),
        ("other_app", 0): ShardRecord(mark(5), None),
    }
    assert store.copy_before("zero", 0, mark(99)) == copy(5, "zero")


def test_a_first_copy_makes_void_what_was_known_of_the_shard(store: WatermarkStore) -> None:
    store.copied_first("zero", 0, copy(5, "old", 7))
    store.copied("zero", 0, copy(20, "old"))
    store.acked("zero", 0, mark(21))
    store.copied_first("zero", 0, copy(10, "new"))
    assert store.shard("zero", 0) == ShardRecord(mark(10), None)
    assert store.copy_before("zero", 0, mark(9)) is None
    assert store.copy_before("zero", 0, mark(99)) == copy(10, "new")
    store.copied_first("zero", 0, copy(4, "restored"))
    assert store.shard("zero", 0) == ShardRecord(mark(4), None), "also where the database's time has gone back"


def test_a_copy_may_be_sent_again(store: WatermarkStore) -> None:
    store.copied_first("zero", 0, copy(5, "a"))
    store.copied_first("zero", 0, copy(5, "b", 6))
    store.copied("zero", 0, copy(7, "b"))
    store.copied("zero", 0, copy(7, "c", 8))
    assert store.copy_before("zero", 0, mark(7)) == copy(7, "c", 8)
    assert store.copy_before("zero", 0, mark(6)) == copy(5, "b", 6)


def test_a_shard_that_was_reloaded_often(store: WatermarkStore) -> None:
    store.copied_first("zero", 0, copy(1))
    for number in range(2, COPIES + 20):
        store.copied("zero", 0, copy(number))
    (kept,) = store.contents().copies.values()
    assert [one.watermark for one in kept] == [mark(number) for number in range(20, COPIES + 20)]


def test_copies_that_did_not_arrive_are_forgotten(store: WatermarkStore) -> None:
    store.copied_first("zero", 0, copy(5))
    store.copied("zero", 0, copy(7))
    store.copied("zero", 0, copy(9))
    store.forget_copies_above("zero", 0, mark(7))
    assert store.copy_before("zero", 0, mark(99)) == copy(7)


def test_checkpoints_are_found_from_any_watermark_behind_them(store: WatermarkStore) -> None:
    for number in (10, 36, 50):
        store.checkpoint(mark(number), f"token {number}")
    assert store.checkpoint_before(mark(9)) is None
    assert store.checkpoint_before(mark(10)) == (mark(10), "token 10")
    assert store.checkpoint_before(mark(35)) == (mark(10), "token 10"), "0z is below 110"
    assert store.checkpoint_before(mark(36, 1)) == (mark(36), "token 36")
    assert store.checkpoint_before(mark(10**15)) == (mark(50), "token 50")


def test_checkpoints_far_behind_all_acks_are_forgotten(
    store: WatermarkStore, another: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (nats, sqlite):
        monkeypatch.setattr(module, "CHECKPOINTS", 3)
    store.copied_first("zero", 0, copy(4))
    store.copied_first("zero", 1, copy(1))
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
    store.close()
    assert list(another().contents().checkpoints) == [mark(number) for number in (18, 19, 20, 21)]


def test_checkpoints_do_not_wait_for_ever(store: WatermarkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a client that was tried once, and never came back."""
    for module in (nats, sqlite):
        monkeypatch.setattr(module, "CHECKPOINTS", 3)
        monkeypatch.setattr(module, "CHECKPOINTS_AT_MOST", 10)
    store.copied_first("zero", 0, copy(0))
    for number in range(1, 31):
        store.checkpoint(mark(number), str(number))
    assert len(store.contents().checkpoints) in (10, 11)
    assert store.checkpoint_before(mark(30)) == (mark(30), "30")


def test_checkpoints_do_not_wait_for_a_client(store: WatermarkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (nats, sqlite):
        monkeypatch.setattr(module, "CHECKPOINTS", 3)
    for number in range(20):
        store.checkpoint(mark(number), str(number))
    assert len(store.contents().checkpoints) == 4


def test_an_edition_stays_what_it_was(store: WatermarkStore) -> None:
    store.add_edition("f", "one")
    store.add_edition("f", "other")
    assert store.edition("f") == "one"
    store.forget_edition("f")
    assert store.edition("f") is None
    store.add_edition("f", "other")
    assert store.edition("f") == "other"


def test_an_identity_may_be_unknown_in_part(store: WatermarkStore) -> None:
    store.identify(Identity(None, {}))
    assert store.identity() == Identity(None, {})
    store.identify(Identity("set", {"b": "2", "a": "1"}))
    assert store.identity() == Identity("set", {"a": "1", "b": "2"})
    store.identify(Identity("set", {}, "db"))
    assert store.identity() == Identity("set", {}, "db")


def test_a_shard_can_be_forgotten(store: WatermarkStore) -> None:
    fill(store)
    store.copied_first("zero", 1, copy(6))
    store.forget("zero", 0)
    assert store.shards() == {("zero", 1): ShardRecord(mark(6), None)}
    assert store.contents().copies == {("zero", 1): [copy(6)]}
    store.copied_first("zero", 0, copy(7))
    assert store.shard("zero", 0) == ShardRecord(mark(7), None)


def test_many_threads_may_use_it(store: WatermarkStore) -> None:
    store.copied_first("zero", 0, copy(0))
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(20):
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
    assert [len(copies) for _, copies in sorted(store.contents().copies.items())] == [20] * 4


def test_two_may_write_about_one_shard(store: WatermarkStore, another: Open) -> None:
    """Each keeps what the other has written: by compare-and-set, or by sqlite's own lock."""
    both = (store, another())
    store.copied_first("zero", 0, copy(1))
    numbers = itertools.count(2)

    def work(mine: WatermarkStore) -> None:
        for _ in range(20):
            mine.copied("zero", 0, copy(next(numbers)))

    threads = [Thread(target=work, args=(mine,)) for mine in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for one in both:
        one.copy_before("zero", 0, mark(1))
        assert len(one.contents().copies["zero", 0]) == 41


def test_after_it_was_closed(store: WatermarkStore) -> None:
    store.close()
    for use in (store.shards, lambda: store.acked("zero", 0, mark(1)), lambda: store.checkpoint(mark(1), "t")):
        with pytest.raises(StoreError):
            use()
