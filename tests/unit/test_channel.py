from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread

import pytest

from tests.support.wait import wait_until
from zmsd.channel import Channel
from zmsd.errors import ResumeLost, SourceUnavailable, Stopped


@contextmanager
def running(target: Callable[[], object]) -> Iterator[Thread]:
    """Run a thread that must end by itself before the block ends."""
    thread = Thread(target=target, daemon=True)
    thread.start()
    yield thread
    thread.join(10)
    assert not thread.is_alive()


def test_items_are_returned_in_order() -> None:
    channel: Channel[int] = Channel(1000)
    for number in range(1000):
        channel.put(number)
    assert len(channel) == 1000
    assert [channel.get() for _ in range(1000)] == list(range(1000))


def test_get_from_an_empty_channel_ends_after_its_timeout() -> None:
    channel: Channel[int] = Channel(1)
    assert channel.get(0.01) is None
    assert channel.get(0) is None


def test_put_into_a_full_channel_waits() -> None:
    channel: Channel[int] = Channel(2)
    done: list[int] = []

    def write() -> None:
        for number in range(5):
            channel.put(number)
            done.append(number)

    with running(write):
        wait_until(lambda: len(done) == 2, "the channel is full")
        assert channel.get(0) == 0
        wait_until(lambda: len(done) == 3, "there was room for one more")
        assert len(channel) == 2
        assert [channel.get(5) for _ in range(4)] == [1, 2, 3, 4]


def test_waiting_reader_gets_the_next_item() -> None:
    channel: Channel[int] = Channel(1)
    got: list[int | None] = []
    with running(lambda: got.append(channel.get())):
        channel.put(7)
    assert got == [7]


def test_close_wakes_all_waiters() -> None:
    full: Channel[int] = Channel(1)
    full.put(0)
    empty: Channel[int] = Channel(1)
    ends: list[str] = []

    def blocked(action: Callable[[], object], name: str) -> Callable[[], None]:
        def run() -> None:
            try:
                action()
            except Stopped:
                ends.append(name)

        return run

    with ExitStack() as threads:
        for _ in range(2):
            threads.enter_context(running(blocked(lambda: full.put(1), "put")))
            threads.enter_context(running(blocked(empty.get, "get")))
        full.close()
        empty.close()
    assert sorted(ends) == ["get", "get", "put", "put"]
    assert len(full) == 1, "nothing was put into a closed channel"


def test_items_of_a_closed_channel_can_be_taken() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.put(2)
    channel.close(SourceUnavailable("gone"))
    assert channel.get() == 1
    assert channel.get(0) == 2
    for _ in range(2):
        with pytest.raises(SourceUnavailable, match="gone"):
            channel.get()
    with pytest.raises(Stopped):
        channel.put(3)


def test_first_error_is_raised() -> None:
    channel: Channel[int] = Channel(1)
    channel.close()
    channel.close(ResumeLost("first"))
    channel.close(SourceUnavailable("its echo"))
    channel.close()
    with pytest.raises(ResumeLost, match="first"):
        channel.get()
