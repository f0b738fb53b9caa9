from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wait import FACTOR, wait_until
from zmsd.errors import Evicted
from zmsd.position import watermark
from zmsd.replication.change_log import ChangeLog, Entry, LogCursor

FINGERPRINT = "edition"
ALL = 1 << 30


def entry(at: int, part: int = 0, *, ends: bool = True, size: int = 10, rows: int = 1) -> Entry:
    return Entry(watermark(at), 0, rows, f"{at}.{part}".ljust(size).encode(), ends)


def started(floor: int = 0, limit: int = ALL) -> ChangeLog:
    log = ChangeLog(limit)
    log.start(watermark(floor), FINGERPRINT)
    return log


def tail(log: ChangeLog, after: int) -> LogCursor:
    found = log.tail(watermark(after), FINGERPRINT)
    assert found is not None
    return found


def taken(reader: LogCursor, rows: int = ALL, size: int = ALL) -> list[str]:
    """Return what the reader gets without waiting."""
    return [one.frames.decode().strip() for one in reader.take(rows, size, 0)]


def test_cursor_returns_entries_after_its_watermark() -> None:
    log = started()
    early = tail(log, 0)
    log.extend([entry(at) for at in (5, 7, 40)])
    assert log.head == watermark(40)
    assert taken(early) == ["5.0", "7.0", "40.0"]
    assert taken(tail(log, 5)) == taken(tail(log, 6)) == ["7.0", "40.0"]
    assert taken(tail(log, 7)) == ["40.0"], "as text 0z is below 110"
    late = tail(log, 40)
    assert taken(late) == taken(early) == []
    log.extend([entry(41)])
    assert taken(late) == taken(early) == ["41.0"]


def test_cursor_may_begin_at_a_minor_watermark() -> None:
    log = started(5)
    found = log.tail(watermark(5, 1), FINGERPRINT)
    assert found is not None
    log.extend([entry(6)])
    assert taken(found) == ["6.0"]


def test_watermark_before_the_log_is_not_found() -> None:
    log = ChangeLog()
    assert log.tail(watermark(5), FINGERPRINT) is None, "nor is any before the first start"
    assert log.head is None
    log.start(watermark(5), FINGERPRINT)
    assert log.head == watermark(5)
    assert log.tail(watermark(4), FINGERPRINT) is None
    assert log.tail(watermark(5), FINGERPRINT) is not None


def test_cursor_of_another_publication_is_evicted() -> None:
    log = started(5)
    with pytest.raises(Evicted):
        log.tail(watermark(6), "other")


def test_take_is_limited_by_rows_and_bytes() -> None:
    log = started()
    log.extend([entry(at, rows=10, size=1000) for at in range(1, 11)])
    assert len(taken(tail(log, 0), rows=25)) == 3
    assert len(taken(tail(log, 0), rows=1)) == 1, "one at least, however large"
    assert 2 <= len(taken(tail(log, 0), size=2500)) <= 3
    reader = tail(log, 0)
    assert [len(taken(reader, rows=40)) for _ in range(4)] == [4, 4, 2, 0]


def test_take_counts_transactions_without_rows() -> None:
    log = started()
    log.extend([entry(at, rows=0) for at in range(1, 11)])
    assert len(taken(tail(log, 0), rows=5)) == 5


@pytest.mark.parametrize("wrong", [0, 5], ids=["below", "repeated"])
def test_watermark_that_does_not_rise_is_an_assertion_error(wrong: int) -> None:
    log = started()
    log.extend([entry(5)])
    with pytest.raises(AssertionError):
        log.extend([entry(wrong)])


def test_parts_of_a_transaction_stay_together() -> None:
    log = started()
    log.extend([entry(5, 0, ends=False)])
    with pytest.raises(AssertionError):
        log.extend([entry(6)])
    log = started()
    log.extend([entry(5, 0, ends=False), entry(5, 1, ends=False)])
    log.extend([entry(5, 2)])
    with pytest.raises(AssertionError):
        log.extend([entry(5, 3)])
    assert taken(tail(log, 0)) == ["5.0", "5.1", "5.2"]


def test_size_of_the_log_is_bounded() -> None:
    log = started(limit=20_000)
    slow, lagging = tail(log, 0), tail(log, 0)
    assert taken(lagging) == []
    for at in range(1, 101):
        log.extend([entry(at, size=1000)])
        assert log.size <= 20_000
        if at == 95:
            assert taken(tail(log, 90)) == [f"{number}.0" for number in range(91, 96)]
    with pytest.raises(Evicted):
        taken(slow)
    assert log.tail(watermark(50), FINGERPRINT) is None
    assert taken(tail(log, 99)) == ["100.0"]


def test_transaction_beyond_the_limit_reaches_waiting_readers() -> None:
    log = started(limit=1000)
    log.extend([entry(1)])
    reader = tail(log, 1)
    log.extend([entry(2, size=50_000)])
    assert taken(reader) == ["2.0"]
    log.extend([entry(3)])
    assert taken(reader) == ["3.0"]


def test_cut_removes_an_unfinished_transaction() -> None:
    log = started()
    log.extend([entry(1)])
    torn, waiting = tail(log, 0), tail(log, 1)
    log.extend([entry(5, 0, ends=False), entry(5, 1, ends=False)])
    assert taken(torn) == ["1.0", "5.0", "5.1"]
    log.cut()
    assert log.head == watermark(1)
    for reader in (torn, waiting):
        with pytest.raises(Evicted):
            taken(reader)
    log.extend([entry(5, 0), entry(6)])
    assert taken(tail(log, 1)) == ["5.0", "6.0"]


def test_cut_without_an_open_transaction_changes_nothing() -> None:
    log = started()
    reader = tail(log, 0)
    log.cut()
    log.extend([entry(1)])
    log.cut()
    assert taken(reader) == ["1.0"]


def test_start_evicts_all_readers() -> None:
    log = started()
    log.extend([entry(1)])
    reader, late = tail(log, 0), tail(log, 1)
    log.start(watermark(3), FINGERPRINT)
    for old in (reader, late):
        with pytest.raises(Evicted):
            taken(old)
    assert log.tail(watermark(1), FINGERPRINT) is None
    assert log.size == 0
    log.extend([entry(4)])
    assert taken(tail(log, 3)) == ["4.0"]


def test_cut_transaction_may_repeat_after_its_parts_were_trimmed() -> None:
    log = started(limit=10_000)
    log.extend([entry(1), entry(2)])
    for part in range(20):
        log.extend([entry(5, part, ends=False, size=1000)])
    log.cut()
    assert log.head == watermark(2)
    log.extend([entry(5, 0, ends=False, size=1000), entry(5, 1)])
    assert taken(tail(log, 2)) == ["5.0", "5.1"]


def test_reader_ahead_of_the_log_gets_nothing_twice() -> None:
    """A client may be ahead: its catch-up feed was faster, or it comes from another daemon, or from an initial sync at
    a later position."""
    log = started()
    log.extend([entry(1)])
    ahead = tail(log, 6)
    log.extend([entry(5), entry(6, 0, ends=False)])
    assert taken(ahead) == []
    log.extend([entry(6, 1)])
    assert taken(ahead) == []
    log.extend([entry(7)])
    assert taken(ahead) == ["7.0"]


def test_reader_within_a_resync_gap_is_evicted() -> None:
    """An entry may hold changes later than its own watermark: readers past it lack the changes that were sent early."""
    log = started()
    waiting, early, late = tail(log, 6), tail(log, 3), tail(log, 9)
    ahead = Entry(watermark(5), 0, 1, b"5.0", resynced_to=watermark(9))
    log.extend([entry(4), ahead, entry(10)])
    with pytest.raises(Evicted):
        taken(waiting)
    assert taken(early) == ["4.0", "5.0", "10.0"]
    assert taken(late) == ["10.0"]
    assert [log.tail(watermark(at), FINGERPRINT) is None for at in (4, 5, 6, 8, 9)] == [False, True, True, True, False]
    log.start(watermark(6), FINGERPRINT)
    assert log.tail(watermark(6), FINGERPRINT) is not None


def test_resync_gap_is_removed_when_the_log_begins_after_it() -> None:
    log = started(limit=3000)
    log.extend([Entry(watermark(5), 0, 1, b"", resynced_to=watermark(9)), entry(6), entry(7)])
    log.extend([entry(at, size=1000) for at in (8, 10)])
    assert log.tail(watermark(8), FINGERPRINT) is None
    log.extend([entry(at, size=1000) for at in range(11, 20)])
    assert log.tail(watermark(19), FINGERPRINT) is not None
    assert not log._resync_gaps


# THREADS


def test_reader_waits_for_the_next_entry() -> None:
    log = started()
    got: list[list[str]] = []
    reader = tail(log, 0)
    thread = Thread(target=lambda: got.append([one.watermark for one in reader.take(1, 1, 30)]), daemon=True)
    thread.start()
    wait_until(lambda: log._changed._waiters, "the reader waits")  # type: ignore[attr-defined]
    log.extend([entry(3)])
    thread.join(10)
    assert got == [[watermark(3)]]


@pytest.mark.parametrize("size", [1, 2 << 20], ids=["little", "enough"])
def test_waiting_reader_wakes_when_enough_or_all_is_there(size: int) -> None:
    log = started()
    reader = tail(log, 0)
    got: list[Entry] = []
    thread = Thread(target=lambda: got.extend(reader.take(10, 1 << 30, 30)), daemon=True)
    thread.start()
    wait_until(lambda: log._changed._waiters, "the reader waits")  # type: ignore[attr-defined]
    log.extend([Entry(watermark(3), 0, 1, bytes(size))], more=True)
    if size == 1:
        assert log._changed._waiters  # type: ignore[attr-defined]
        log.extend([entry(4)])
    thread.join(10)
    assert [one.watermark for one in got] == [watermark(at) for at in ([3, 4] if size == 1 else [3])]


def test_wait_ends_after_its_timeout() -> None:
    log = started()
    before = time.monotonic()
    assert tail(log, 0).take(1, 1, 0.05) == []
    assert time.monotonic() - before < 5 * FACTOR


def test_close_wakes_all_readers() -> None:
    log = started()
    readers = [tail(log, 0) for _ in range(3)]
    threads = [Thread(target=reader.take, args=(1, 1, 60), daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    log.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    log.wait(60)
    assert readers[0].take(1, 1, 60) == []


def test_readers_of_different_speed_get_everything_or_evicted() -> None:
    """Real threads read a log that is too small for the slow ones."""
    log = started(limit=30_000)
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    overruns: list[int] = []

    def read(pace: int) -> None:
        reader = tail(log, 0)
        try:
            while not seen[pace] or seen[pace][-1] < 500:
                seen[pace] += [int(one.frames.partition(b".")[0]) for one in reader.take(pace or ALL, ALL, 10)]
        except Evicted:
            overruns.append(pace)

    threads = [Thread(target=read, args=(pace,), daemon=True) for pace in seen]
    for thread in threads:
        thread.start()
    for at in range(1, 501):
        log.extend([entry(at, size=100)])
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for pace, numbers in seen.items():
        assert numbers == list(range(1, len(numbers) + 1)), "in order, without a gap"
        assert pace in overruns or numbers[-1] == 500


# EVERY READER SEES EVERY TRANSACTION ONCE, IN ORDER


@dataclass
class Reader:
    """A reader that follows the rules of a session: it begins at a watermark, is evicted, and reads a catch-up feed
    where the log has no entries."""

    position: int
    seen: list[int] = field(default_factory=list)
    tail: LogCursor | None = None
    open: list[str] = field(default_factory=list)

    def take(self, rows: int, log: ChangeLog, history: dict[int, int], ahead: int) -> None:
        """:param ahead: how many transactions a catch-up feed would be ahead of the reader"""
        if self.tail is None:
            self.tail = log.tail(watermark(self.position), FINGERPRINT)
        if self.tail is None:
            following = sorted(at for at in history if at > self.position)[:ahead]
            self.seen += following
            self.position = max([self.position, *following])
            return
        try:
            entries = self.tail.take(rows, ALL, 0)
        except Evicted:
            self.tail = None
            self.open = []
            return
        for one in entries:
            at, _, part = one.frames.decode().strip().partition(".")
            assert one.watermark == watermark(int(at))
            assert int(part) == len(self.open), "each part once, in order"
            self.open.append(part)
            if one.ends_transaction:
                assert len(self.open) == history[int(at)], "whole"
                self.open = []
                self.seen.append(int(at))
                self.position = int(at)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 4)),  # so many entries
        st.tuples(st.just("read"), st.integers(0, 3), st.integers(1, 5)),  # who, how many rows
        st.tuples(st.just("join"), st.integers(0, 30)),  # a new reader after that many transactions
        st.tuples(st.just("cut")),
        st.tuples(st.just("start"), st.integers(0, 3)),  # that many transactions later
    ),
    max_size=60,
)
HISTORY = st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1, 1, 1, 2, 5])), min_size=30, max_size=30)


def follow(gaps: list[tuple[int, int]], actions: list[tuple[object, ...]], limit: int, ahead: bool) -> None:
    """:param gaps: of the history: (distance to the next transaction, its parts)
    :param ahead: whether readers may be at places that the log has not reached yet
    """
    history: dict[int, int] = {}
    at = 100
    for gap, parts in gaps:
        at += gap
        history[at] = parts
    order = sorted(history)
    log = ChangeLog(limit)
    log.start(watermark(100), FINGERPRINT)
    next_one, next_part = 0, 0  # the writer's next entry
    readers = [Reader(100)]
    begun = [100]

    def reached() -> int:
        """Return how many transactions a reader may know."""
        return len(order) if ahead else next_one

    for action, *arguments in actions:
        numbers = [int(str(argument)) for argument in arguments]
        if action == "write":
            for _ in range(numbers[0]):
                if next_one < len(order):
                    last = next_part == history[order[next_one]] - 1
                    log.extend([entry(order[next_one], next_part, ends=last)])
                    next_one, next_part = (next_one + 1, 0) if last else (next_one, next_part + 1)
        elif action == "read":
            reader = readers[numbers[0] % len(readers)]
            known = len([one for one in order[: reached()] if one > reader.position])
            reader.take(numbers[1], log, history, min(numbers[1], known))
        elif action == "join":
            start = ([100] + order)[min(numbers[0], reached())]
            readers.append(Reader(start))
            begun.append(start)
        elif action == "cut":
            log.cut()
            next_part = 0
        else:
            log.cut()
            next_one, next_part = min(next_one + numbers[0], len(order)), 0
            log.start(watermark(([100] + order)[next_one]), FINGERPRINT)
        for reader, start in zip(readers, begun, strict=True):
            assert reader.seen == [one for one in order if start < one <= reader.position]
    # In the end each reader gets everything.
    while next_one < len(order):
        for part in range(next_part, history[order[next_one]]):
            log.extend([entry(order[next_one], part, ends=part == history[order[next_one]] - 1)])
        next_one, next_part = next_one + 1, 0
    for reader, start in zip(readers, begun, strict=True):
        for _ in range(3 * len(order)):
            reader.take(3, log, history, 3)
        assert reader.seen == [one for one in order if one > start]


@given(HISTORY, ACTIONS, st.sampled_from([2100, 4500, ALL]), st.booleans())
def test_each_reader_gets_each_transaction_once(
    gaps: list[tuple[int, int]], actions: list[tuple[object, ...]], limit: int, ahead: bool
) -> None:
    if limit == 2100:  # room for five entries: no transaction of parts may be cut, see above
        gaps = [(gap, 1) for gap, _ in gaps]
    follow(gaps, actions, limit, ahead)
