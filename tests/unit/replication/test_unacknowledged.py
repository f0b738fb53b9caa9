"""Commits that are sent again end where they ended before."""

from __future__ import annotations

import pytest

from zmsd.replication.change_log import Entry
from zmsd.replication.unacknowledged import MAX_WATERMARKS, Unacknowledged, split


def entries(*watermarks: str) -> list[Entry]:
    """A trailing ``+`` marks a part of a transaction that goes on."""
    return [Entry(mark.rstrip("+"), 0, 1, b"x", ends_transaction=not mark.endswith("+")) for mark in watermarks]


def test_commits_are_kept_in_order_until_they_are_acknowledged() -> None:
    commits = Unacknowledged()
    for watermark in ("c", "f", "d", "d", "f"):
        commits.sent(watermark)
    assert commits.after("") == ["c", "d", "f"]
    assert commits.after("c") == ["d", "f"]
    commits.acknowledged("e")
    assert commits.after("") == ["f"]


def test_number_of_kept_commits_is_bounded() -> None:
    commits = Unacknowledged()
    for number in range(3 * MAX_WATERMARKS):
        commits.sent(f"{number:09}")
    kept = commits.after("")
    assert MAX_WATERMARKS // 2 <= len(kept) <= MAX_WATERMARKS
    assert kept[-1] == f"{3 * MAX_WATERMARKS - 1:09}"


@pytest.mark.parametrize(
    ("commits", "found", "parts", "left"),
    [
        ([], "a b c", ["a b c"], []),
        (["b"], "a b c", ["a b", "c"], []),
        (["c"], "a b c", ["a b c"], []),
        (["d"], "a b c", ["a b c"], ["d"]),
        (["a", "b", "d"], "a b c", ["a", "b", "c"], ["d"]),
        (["b"], "a c", ["a", "b", "c"], []),
        (["a", "b"], "c", ["a", "b", "c"], []),
        (["b"], "a b+ b+", ["a b+ b+"], ["b"]),
        (["b"], "b c", ["b", "c"], []),
        (["a", "b"], "a b+ b+ b c", ["a", "b+ b+ b", "c"], []),
    ],
)
def test_split_ends_a_part_at_each_commit(commits: list[str], found: str, parts: list[str], left: list[str]) -> None:
    """``b`` between ``a`` and ``c`` without an entry is a heartbeat's."""
    made = list(split(entries(*found.split()), commits))
    assert [" ".join(entry.watermark + "+" * (not entry.ends_transaction) for entry in part) for part in made] == parts
    assert commits == left
