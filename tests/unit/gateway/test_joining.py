"""TransactionJoiner: which transactions a client is sent, and the assertions that stop a wrong one (invariant 1)."""

from __future__ import annotations

import pytest

from tests.support.frames import messages
from zmsd import position
from zmsd.gateway.joining import TransactionJoiner
from zmsd.replication.change_log import Entry


def entry(at: int, *, ends: bool = True) -> Entry:
    return Entry(position.watermark(at), at, 1, b"", ends)


def tags(joiner: TransactionJoiner, *entries: Entry) -> list[tuple[str, str]]:
    """Return (tag, watermark) of each begin and commit."""
    sent = messages(b"".join(joiner.join(entries)))
    return [(tag, next(iter(rest.values()))) for tag, _, rest in sent]


def test_begin_has_the_watermark_of_the_commit() -> None:
    joiner = TransactionJoiner("zero_0", position.watermark(10))
    newest = position.watermark(30)
    assert tags(joiner, entry(20), entry(30)) == [("begin", newest), ("commit", newest)]


def test_open_transaction_is_committed_under_the_watermark_of_its_begin() -> None:
    joiner = TransactionJoiner("zero_0", position.watermark(10))
    first, second = position.watermark(20), position.watermark(30)
    assert tags(joiner, entry(20, ends=False)) == [("begin", first)]
    assert tags(joiner, entry(20), entry(30)) == [("commit", first), ("begin", second), ("commit", second)]


@pytest.mark.parametrize("at", [9, 10])
def test_watermark_that_does_not_rise_is_an_assertion_error(at: int) -> None:
    joiner = TransactionJoiner("zero_0", position.watermark(10))
    with pytest.raises(AssertionError, match="after"):
        list(joiner.join([entry(at)]))


def test_another_transaction_inside_an_open_one_is_an_assertion_error() -> None:
    joiner = TransactionJoiner("zero_0", position.watermark(10))
    list(joiner.join([entry(20, ends=False)]))
    with pytest.raises(AssertionError, match="inside"):
        list(joiner.join([entry(30)]))
