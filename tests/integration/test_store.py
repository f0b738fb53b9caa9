"""The contract of every watermark store: sqlite and NATS."""

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
from zmsd.watermarks.base import (
    COPIES,
    Contents,
    CopyRecord,
    Identity,
    Replica,
    ReplicaRecord,
    WatermarkStore,
)
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
    """Return a function that opens the same store at each call; all are closed in the end."""
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


ZERO = Replica("zero", 0, mark(5))
TOKEN = "82" + "0" * 16


def token(number: int) -> str:
    return f"82{number:016x}"


def test_new_store_is_empty(store: WatermarkStore) -> None:
    assert store.trouble is None
    assert store.replicas() == {}
    assert store.replica(ZERO) is None
    assert store.latest_checkpoint(mark(9)) is None
    assert store.load_identity() is None
    assert store.invalidated_below() is None
    assert store.load_publication("f") is None
    assert store.epochs() == ()
    assert store.contents() == Contents({}, {}, {}, (), None, None)


def fill(store: WatermarkStore) -> None:
    store.record_copy(ZERO, copy(5, "edition 1", 7))
    store.record_copy(ZERO, copy(20, "edition 2"))
    store.record_ack(ZERO, mark(9))
    store.record_checkpoint(mark(9), TOKEN)
    store.save_identity(Identity("set", {"a": "uuid"}))
    store.invalidate(mark(3), "another database")
    store.save_publication("edition 1", '["ü"]')


FILLED = Contents(
    {ZERO: ReplicaRecord(mark(9), (copy(5, "edition 1", 7), copy(20, "edition 2")))},
    {mark(9): TOKEN},
    {"edition 1": '["ü"]'},
    (),
    Identity("set", {"a": "uuid"}),
    (mark(3), "another database"),
)


def test_store_keeps_its_content_after_reopening(store: WatermarkStore, another: Open) -> None:
    fill(store)
    store.close()
    again = another()
    record = again.replica(ZERO)
    assert record is not None
    assert record.latest_copy(mark(4)) is None
    assert record.latest_copy(mark(19)) == copy(5, "edition 1", 7)
    assert record.latest_copy(mark(20)) == copy(20, "edition 2")
    assert again.latest_checkpoint(mark(9)) == (mark(9), TOKEN)
    assert again.load_identity() == Identity("set", {"a": "uuid"})
    assert again.invalidated_below() == (mark(3), "another database")
    assert again.load_publication("edition 1") == '["ü"]'
    assert again.contents() == FILLED


def test_writes_are_seen_by_another_store(store: WatermarkStore, another: Open) -> None:
    """Writes that a look-up of a replica needs are visible at once."""
    other = another()
    store.record_copy(ZERO, copy(5))
    assert other.replica(ZERO) == ReplicaRecord(None, (copy(5),))
    store.record_copy(ZERO, copy(7))
    assert other.replica(ZERO) == ReplicaRecord(None, (copy(5), copy(7)))
    store.save_publication("f", "[]")
    assert other.load_publication("f") == "[]"
    store.record_ack(ZERO, mark(6))
    wait_until(lambda: other.replicas() == {ZERO: ReplicaRecord(mark(6), (copy(5), copy(7)))}, "the ack is seen")


def test_replicas_are_independent(store: WatermarkStore) -> None:
    """Replicas of one shard are independent: initial syncs, schema changes, acknowledgements and removal."""
    new = ZERO._replace(version=mark(8))
    other = [ZERO._replace(shard=1), ZERO._replace(app="other_app"), ZERO._replace(version=mark(8, 1))]
    for replica in (ZERO, new, *other):
        store.record_copy(replica, CopyRecord(replica.version, replica.version, replica.app))
    store.record_copy(ZERO, copy(20, "more"))
    store.record_ack(new, mark(9))
    store.record_ack(ZERO, mark(21))
    store.record_ack(ZERO._replace(app="unknown"), mark(9))
    found = store.replicas()
    assert found[ZERO] == ReplicaRecord(mark(21), (copy(5, "zero"), copy(20, "more")))
    assert found[new] == ReplicaRecord(mark(9), (copy(8, "zero"),))
    assert found.keys() == {ZERO, new, *other}
    store.forget_replica(new)
    assert store.replicas() == {replica: record for replica, record in found.items() if replica != new}
    assert store.replica(new) is None


def test_acknowledgement_does_not_go_back(store: WatermarkStore) -> None:
    """zero-cache 1.10 repeats an older acknowledgement after a reconnect."""
    store.record_copy(ZERO, copy(5))
    for number in (7, 9, 8):
        store.record_ack(ZERO, mark(number))
    assert store.replica(ZERO) == ReplicaRecord(mark(9), (copy(5),))


def test_copy_at_the_same_watermark_is_replaced(store: WatermarkStore) -> None:
    for one in (copy(5, "a"), copy(7, "b"), copy(5, "b", 6), copy(7, "c", 8)):
        store.record_copy(ZERO, one)
    assert store.replica(ZERO) == ReplicaRecord(None, (copy(5, "b", 6), copy(7, "c", 8)))


def test_replica_keeps_its_newest_schema_changes(store: WatermarkStore) -> None:
    for number in range(1, COPIES + 20):
        store.record_copy(ZERO, copy(number, str(number)))
    record = store.replica(ZERO)
    assert record is not None
    assert [one.watermark for one in record.copies] == [mark(number) for number in range(20, COPIES + 20)]


def test_repeated_schema_change_does_not_push_out_the_base(store: WatermarkStore) -> None:
    """A replica may request the same schema change many times."""
    store.record_copy(ZERO, copy(5, "old"))
    for number in range(10, COPIES + 50):
        store.record_copy(ZERO, copy(number, "new"))
    record = store.replica(ZERO)
    assert record is not None
    assert record.copies[:2] == (copy(5, "old"), copy(10, "new"))
    assert record.copies[-1] == copy(COPIES + 49, "new")
    assert len(record.copies) == COPIES


def test_checkpoint_is_found_for_any_later_watermark(store: WatermarkStore) -> None:
    for number in (10, 36, 50):
        store.record_checkpoint(mark(number), token(number))
    assert store.latest_checkpoint(mark(9)) is None
    assert store.latest_checkpoint(mark(10)) == (mark(10), token(10))
    assert store.latest_checkpoint(mark(35)) == (mark(10), token(10)), "0z is below 110"
    assert store.latest_checkpoint(mark(36, 1)) == (mark(36), token(36))
    assert store.latest_checkpoint(mark(10**15)) == (mark(50), token(50))


def test_checkpoints_older_than_all_acks_are_removed(
    store: WatermarkStore, another: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (nats, sqlite):
        monkeypatch.setattr(module, "CHECKPOINTS", 3)
    other = Replica("zero", 1, mark(1))
    store.record_copy(ZERO, copy(4))
    store.record_copy(other, copy(1))
    store.record_ack(ZERO, mark(100))
    for number in range(20):
        store.record_checkpoint(mark(number), token(number))
    assert store.latest_checkpoint(mark(1)) == (mark(1), token(1)), "shard 1 has confirmed nothing yet"
    assert store.latest_checkpoint(mark(0)) is None
    store.record_ack(other, mark(10))
    store.record_checkpoint(mark(20), token(20))
    assert store.latest_checkpoint(mark(9)) is None
    assert store.latest_checkpoint(mark(10)) == (mark(10), token(10))
    store.record_ack(other, mark(20))
    store.record_checkpoint(mark(21), token(21))
    assert store.latest_checkpoint(mark(17)) is None
    assert store.latest_checkpoint(mark(18)) == (mark(18), token(18)), "some are kept in any case"
    store.close()
    assert list(another().contents().checkpoints) == [mark(number) for number in (18, 19, 20, 21)]


def test_checkpoints_do_not_wait_for_a_client_that_never_returns(
    store: WatermarkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (nats, sqlite):
        monkeypatch.setattr(module, "CHECKPOINTS", 3)
        monkeypatch.setattr(module, "CHECKPOINTS_AT_MOST", 10)
    store.record_copy(ZERO, copy(0))
    for number in range(1, 31):
        store.record_checkpoint(mark(number), token(number))
    assert len(store.contents().checkpoints) in (10, 11)
    assert store.latest_checkpoint(mark(30)) == (mark(30), token(30))


def test_checkpoints_do_not_wait_without_clients(store: WatermarkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (nats, sqlite):
        monkeypatch.setattr(module, "CHECKPOINTS", 3)
    for number in range(20):
        store.record_checkpoint(mark(number), token(number))
    assert len(store.contents().checkpoints) == 4


def test_edition_is_not_overwritten(store: WatermarkStore) -> None:
    store.save_publication("f", '["one"]')
    store.save_publication("f", '["other"]')
    assert store.load_publication("f") == '["one"]'
    store.forget_publication("f")
    assert store.load_publication("f") is None
    store.save_publication("f", '["other"]')
    assert store.load_publication("f") == '["other"]'


def test_identity_may_be_partly_unknown(store: WatermarkStore) -> None:
    store.save_identity(Identity(None, {}))
    assert store.load_identity() == Identity(None, {})
    store.save_identity(Identity("set", {"b": "2", "a": "1"}))
    assert store.load_identity() == Identity("set", {"a": "1", "b": "2"})
    store.save_identity(Identity("set", {}, "db"))
    assert store.load_identity() == Identity("set", {}, "db")


def test_store_works_from_many_threads(store: WatermarkStore) -> None:
    store.record_copy(ZERO, copy(0))
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(20):
                at = mark(thread * 1000 + number)
                store.record_checkpoint(at, token(number))
                store.record_ack(ZERO, at)
                assert store.latest_checkpoint(at) == (at, token(number))
                store.record_copy(Replica("zero", thread, mark(0)), CopyRecord(at, at, "e"))
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    found = store.replicas()
    assert found.pop(ZERO).acked == mark(3019)
    assert [len(record.copies) for record in found.values()] == [20] * 4


def test_concurrent_writes_about_one_replica_are_all_kept(store: WatermarkStore, another: Open) -> None:
    """The store uses compare-and-set, or SQLite's own lock."""
    both = (store, another())
    store.record_copy(ZERO, copy(1))
    numbers = itertools.count(2)

    def work(mine: WatermarkStore) -> None:
        for _ in range(20):
            mine.record_copy(ZERO, copy(next(numbers)))

    threads = [Thread(target=work, args=(mine,)) for mine in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for one in both:
        record = one.replica(ZERO)
        assert record is not None
        assert len(record.copies) == 41


def test_closed_store_raises_store_error(store: WatermarkStore) -> None:
    store.close()
    for use in (
        store.replicas,
        lambda: store.record_copy(ZERO, copy(5)),
        lambda: store.record_checkpoint(mark(1), "t"),
    ):
        with pytest.raises(StoreError):
            use()
