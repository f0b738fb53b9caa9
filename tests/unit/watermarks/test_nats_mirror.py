"""The mirror of buckets and the queue of writes to them, without a server."""

from __future__ import annotations

from threading import Thread

import pytest

from zmsd.errors import StoreError
from zmsd.watermarks import nats_mirror
from zmsd.watermarks.nats_mirror import QUEUED_PASSING, Mirror, Stored, Update


def mirror() -> Mirror:
    """Return a mirror of a lasting bucket and one whose values expire, both loaded."""
    found = Mirror({"own": None, "tokens": 60.0})
    found.works()
    return found


def to(value: bytes | None) -> Update:
    return lambda old: value


def test_value_has_the_queued_writes_applied() -> None:
    found = mirror()
    found.load("own", {"a": Stored(1, b"1"), "b": Stored(2, None)})
    assert (found.value("own", "a"), found.value("own", "b"), found.value("own", "c")) == (b"1", None, None)
    found.change("one", "own", "a", lambda old: (old or b"") + b"2")
    found.change("two", "own", "a", lambda old: (old or b"") + b"3")
    found.change("three", "own", "c", to(b"new"))
    assert found.value("own", "a") == b"123"
    assert found.values("own") == {"a": b"123", "c": b"new"}
    assert found.stored("own", "a") == Stored(1, b"1"), "the server has no write yet"
    assert found.values("tokens") == {}


def test_write_of_the_same_name_replaces_the_queued_one() -> None:
    found = mirror()
    found.change("ack", "own", "a", to(b"1"))
    other = found.change("other", "own", "b", to(b"x"))
    newest = found.change("ack", "own", "a", to(b"2"))
    assert found.next() == ("other", other), "and waits at the end"
    found.done("other", other)
    assert found.next() == ("ack", newest)


def test_write_that_is_done_wakes_those_that_wait() -> None:
    found = mirror()
    change = found.change("a", "own", "a", to(b"1"))
    assert not found.wait(change, 0)
    results: list[bool] = []
    thread = Thread(target=lambda: results.append(found.wait(change, 30)))
    thread.start()
    found.done("a", change)
    thread.join(10)
    assert results == [True]
    assert found.next() is None


def test_write_that_was_replaced_is_not_removed_with_the_one_before() -> None:
    found = mirror()
    first = found.change("a", "own", "a", to(b"1"))
    second = found.change("a", "own", "a", to(b"2"))
    found.done("a", first)
    assert found.next() == ("a", second)


def test_write_that_is_withdrawn_leaves_the_queue() -> None:
    found = mirror()
    change = found.change("a", "own", "a", to(b"1"))
    assert not found.wait(change, 0, withdraw=True)
    assert found.next() is None
    assert found.value("own", "a") is None


def test_revision_that_is_older_is_not_taken_over() -> None:
    found = mirror()
    assert found.saw("own", "a", Stored(5, b"5"))
    assert not found.saw("own", "a", Stored(5, b"x"))
    assert not found.saw("own", "a", Stored(4, b"4"))
    assert found.saw("own", "a", Stored(6, None))
    assert found.value("own", "a") is None
    assert found.oldest("own") == 6
    assert found.oldest("tokens") == 0


def test_purged_keys_do_not_come_back() -> None:
    """The server may still deliver them."""
    found = mirror()
    found.load("tokens", {key: Stored(number, b"t") for number, key in enumerate("abc", 1)})
    queued = found.change("b", "tokens", "b", to(b"new"))
    found.purge("tokens", ["a", "b"])
    assert found.values("tokens") == {"c": b"t"}
    assert not found.saw("tokens", "b", Stored(9, b"t"))
    found.load("tokens", {"a": Stored(1, b"t"), "d": Stored(4, b"t")})
    assert found.values("tokens") == {"d": b"t"}
    name, change = found.next() or ("", queued)
    assert name == ("purge", "tokens")
    assert change.key == ""


def test_writes_that_expire_are_dropped_before_others() -> None:
    found = mirror()
    found.change("kept", "own", "k", to(b"1"))
    for number in range(QUEUED_PASSING + 20):
        found.change(number, "tokens", f"{number:04}", to(b"t"))
    names = []
    while (queued := found.next()) is not None:
        names.append(queued[0])
        found.done(*queued)
    assert names[0] == "kept"
    assert names[-1] == QUEUED_PASSING + 19
    assert len(names) <= QUEUED_PASSING + 2


def test_full_queue_is_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_mirror, "QUEUED", 3)
    found = mirror()
    for number in range(3):
        found.change(number, "own", "a", to(b""))
    with pytest.raises(StoreError, match="3 writes are queued for NATS"):
        found.change(3, "own", "a", to(b""))
    found.change(2, "own", "a", to(b"x"))  # which replaces one


def test_trouble_is_that_of_the_connection() -> None:
    found = Mirror({"own": None})
    assert found.trouble == "connecting"
    assert not found.wait_loaded(0)
    found.works()
    assert found.trouble is None
    assert found.wait_loaded(0)
    found.failed("no servers")
    assert found.trouble == "no servers"
    assert found.wait_loaded(0), "what was loaded can still be read"


def test_each_write_wakes_the_connection() -> None:
    found, woken = mirror(), []
    found.wake = lambda: woken.append(1)
    found.change("a", "own", "a", to(b""))
    assert woken == [1]


def test_closed_mirror_counts_what_was_not_written() -> None:
    found = mirror()
    found.change("a", "own", "a", to(b""))
    assert found.close(0.0) == 1
    assert found.closed
    for use in (lambda: found.value("own", "a"), lambda: found.values("own"), lambda: found.purge("own", ["a"])):
        with pytest.raises(StoreError, match="was closed"):
            use()
    with pytest.raises(StoreError, match="was closed"):
        found.change("b", "own", "a", to(b""))


def test_close_does_not_wait_for_a_server_that_is_away() -> None:
    found = mirror()
    found.change("a", "own", "a", to(b""))
    found.failed("no servers")
    assert found.close(60.0) == 1
