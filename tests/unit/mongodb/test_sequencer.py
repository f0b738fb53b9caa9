from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmsd.bson_types import Document
from zmsd.channel import Channel
from zmsd.errors import ResumeLost, SequenceError, SourceUnavailable, Stopped
from zmsd.mongodb.change_cursor import Batch
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.sequencer import Sequencer, TransactionGrouper, TransactionPart

NOW = 1 << 62
BEGIN = 1 << 33


def token(at: int, number: int | None = None) -> Document:
    """Return the token of an event, or without a number one that only marks how far the stream has read."""
    return {"_data": f"82{at:016X}" + ("2B0229296E04" if number is None else f"2B042C01{number:06X}")}


def event(at: int, number: int = 0, coll: str | None = "a", kind: str = "insert", **more: Any) -> ChangeEvent:
    return ChangeEvent(token(at, number), kind, coll, **more)


# GROUPER


class Stream:
    """Return transactions, each (position, number of events), as a change stream gives them in any batches."""

    def __init__(self, transactions: list[tuple[int, int]]) -> None:
        self.events: list[tuple[int, Document]] = []
        self.ends: set[int] = set()
        """How many events there are up to the end of a transaction."""
        for at, count in transactions:
            self.events += [(at, event(at, number)) for number in range(count)]
            self.ends.add(len(self.events))


TRANSACTIONS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), max_size=8)
BATCHES = st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.none() | st.integers(0, 3)), max_size=20)
"""(events, whether it says that nothing more was visible, how far beyond them its token is), where that may be."""


@settings(max_examples=200)
@given(TRANSACTIONS, BATCHES)
def test_transactions_are_grouped_however_batches_are_split(
    gaps: list[tuple[int, int]], batches: list[tuple[int, bool, int | None]]
) -> None:
    """Check that each transaction has one or more parts, exactly one first and one last, and that progress never
    exceeds what was read."""
    after = at = BEGIN
    wanted = [(at := at + gap, count) for gap, count in gaps]
    stream = Stream(wanted)
    grouper = TransactionGrouper(after)
    parts: list[TransactionPart] = []
    done = 0
    progress = after
    for size, may_end, beyond in [*batches, (1000, True, None)]:
        batch = stream.events[done : done + size]
        done += len(batch)
        whole = done in stream.ends or not done
        newest = stream.events[done - 1][0] if done else after
        following = stream.events[done][0] if done < len(stream.events) else newest + 4
        reached = token(newest, 9) if done else token(newest)
        if whole and beyond is not None:
            reached = token(min(newest + beyond, following - 1))
        ended = whole and may_end
        got = grouper.group([document for _, document in batch], reached, NOW, ended=ended)
        parts += got.parts
        assert got.progress == grouper.progress >= progress
        progress = got.progress
        assert progress < following, "what has not been delivered lies ahead"
        assert not grouper.is_open or progress < newest, "an unfinished transaction lies ahead"
        assert grouper.is_open or progress >= (newest if done else after)
        assert not (ended and grouper.is_open)
    positions = [part.position for part in parts]
    assert positions == sorted(positions)
    for (position, count), group in zip(wanted, groupby(parts, lambda part: part.position), strict=True):
        assert group[0] == position
        parts = list(group[1])
        assert [part.first for part in parts] == [True] + [False] * (len(parts) - 1)
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
        assert [document for part in parts for document in part.events] == [event(position, n) for n in range(count)]


def test_transaction_over_many_batches_is_not_buffered() -> None:
    grouper = TransactionGrouper(BEGIN)
    for number in range(5):
        (part,) = grouper.group([event(BEGIN + 1, number)], token(BEGIN + 1, number), NOW, ended=False).parts
        assert (len(part.events), part.first, part.last) == (1, number == 0, False)
    assert grouper.is_open
    assert grouper.progress == BEGIN
    nothing, progress = grouper.group([], token(BEGIN + 1, 4), NOW, ended=False)
    assert (nothing, progress) == ([], BEGIN)
    assert grouper.group([], token(BEGIN + 5), NOW, ended=False).parts == [TransactionPart(BEGIN + 1, [], False, True)]
    assert not grouper.is_open


def test_next_transaction_completes_the_previous_one() -> None:
    grouper = TransactionGrouper(BEGIN)
    grouper.group([event(BEGIN + 1)], token(BEGIN + 1, 0), NOW, ended=False)
    parts, progress = grouper.group([event(BEGIN + 2)], token(BEGIN + 2, 0), NOW, ended=False)
    assert parts == [
        TransactionPart(BEGIN + 1, [], False, True),
        TransactionPart(BEGIN + 2, [event(BEGIN + 2)], True, False),
    ]
    assert progress == BEGIN + 1


def test_empty_batch_advances_progress() -> None:
    grouper = TransactionGrouper(BEGIN)
    assert not grouper.group([], token(BEGIN + 1000), NOW, ended=True).parts
    assert BEGIN < grouper.progress <= BEGIN + 1000
    grouper.group([], token(BEGIN + 10), NOW, ended=True)
    assert grouper.progress > BEGIN + 10, "it never goes back"


def test_lagging_member_does_not_complete_a_transaction() -> None:
    """After a failover the stream continues at another member, whose majority point may still be before the
    transaction.
    """
    grouper = TransactionGrouper(BEGIN)
    grouper.group([event(BEGIN + 5, 0)], token(BEGIN + 5, 0), NOW, ended=False)
    assert grouper.group([], token(BEGIN + 5, 0), BEGIN + 4, ended=True) == ([], BEGIN)
    (rest,) = grouper.group([event(BEGIN + 5, 1)], token(BEGIN + 5, 1), BEGIN + 5, ended=True).parts
    assert (rest.first, rest.last) == (False, True)


# SEQUENCER


def channels(**batches: list[list[Document]]) -> dict[str, Channel[Batch]]:
    """Return channels with these batches, which are closed after them."""
    made: dict[str, Channel[Batch]] = {}
    for name, contents in batches.items():
        made[name] = Channel(len(contents) + 1)
        for events in contents:
            made[name].put(Batch(events, token(0), True, 0))
        made[name].close()
    return made


def entry(full: ChangeEvent) -> ChangeEvent:
    """Return the order stream's entry of an event."""
    return ChangeEvent(full.token, full.kind, full.collection, target=full.target)


def test_order_of_the_database_is_kept_over_collections() -> None:
    events = [event(BEGIN + n, n, "abc"[n * 7 % 3], after={"n": n}) for n in range(50)]
    per = {name: [e for e in events if e.collection == name] for name in "abc"}
    sequencer = Sequencer(channels(**{name: [some[:5], some[5:6], some[6:]] for name, some in per.items()}))
    entries = [entry(e) for e in events]
    assert paired(sequencer, entries[:20]) == events[:20]
    assert sequencer.pair([]) == ([], [])
    assert paired(sequencer, entries[20:]) == events[20:]


def paired(sequencer: Sequencer, entries: list[Document]) -> list[Document]:
    found: list[Document] = []
    while entries:
        got = sequencer.pair(entries)
        assert got is not None
        assert got.events, "there is an end to it"
        found += got.events
        entries = got.left
    return found


def test_number_of_held_batches_is_bounded() -> None:
    events = [event(BEGIN + n, n, "aab"[n % 3]) for n in range(30)]
    per = {name: [e for e in events if e.collection == name] for name in "ab"}
    sequencer = Sequencer(channels(a=[[one] for one in per["a"]], b=[per["b"]]))
    entries = [entry(e) for e in events]
    assert sequencer.pair(entries) == (events[:7], entries[7:]), "six batches, of b one"
    assert sequencer.pair(entries[7:9]) == (events[7:9], [])
    assert paired(sequencer, entries[9:]) == events[9:]


def test_unwatched_collections_are_skipped() -> None:
    one = event(BEGIN, 0, "a")
    strangers = [event(BEGIN, 1, "other"), event(BEGIN, 2, None, kind="dropDatabase")]
    assert Sequencer(channels(a=[[one]])).pair([strangers[0], entry(one), strangers[1]]) == ([one], [])


def rename(source: str, target: str) -> ChangeEvent:
    return event(BEGIN, 0, source, kind="rename", target=target)


@pytest.mark.parametrize(
    ("source", "target", "copies"),
    [("a", "z", {"a"}), ("x", "a", {"a"}), ("a", "b", {"a", "b"})],
    ids=["away", "onto", "both"],
)
def test_rename_is_one_event(source: str, target: str, copies: set[str]) -> None:
    """A rename arrives in the stream of each watched collection that it concerns; later events are still paired."""
    renamed = rename(source, target)
    later = {name: event(BEGIN + 1, number, name) for number, name in enumerate(("a", "b"))}
    batches = {name: [[renamed, e] if name in copies else [e]] for name, e in later.items()}
    sequencer = Sequencer(channels(**batches))
    assert sequencer.pair([entry(renamed), *map(entry, later.values())]) == ([renamed, *later.values()], [])


def test_streams_that_disagree_raise_a_sequence_error() -> None:
    sequencer = Sequencer(channels(a=[[event(BEGIN, 1)]]))
    with pytest.raises(SequenceError, match="stream of a"):
        sequencer.pair([entry(event(BEGIN, 2))])
    assert issubclass(SequenceError, SourceUnavailable), "the feed begins again at its position"


def test_error_of_a_reader_ends_the_pairing() -> None:
    pair = channels(a=[[event(BEGIN, 1)]], b=[])
    pair["a"].close(ResumeLost("gone"))
    sequencer = Sequencer(pair)
    assert len(sequencer.pair([entry(event(BEGIN, 1))]).events) == 1, "what it had read comes first"
    with pytest.raises(ResumeLost, match="gone"):
        sequencer.pair([entry(event(BEGIN, 2))])
    with pytest.raises(Stopped):
        sequencer.pair([entry(event(BEGIN, 2, "b"))])
