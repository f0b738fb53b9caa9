"""Commits that are sent again end where they ended before."""

from __future__ import annotations

import pytest

from zmsd import position
from zmsd.replication.change_log import Entry
from zmsd.replication.unacknowledged import MAX_SINGLE, MAX_WATERMARKS, Unacknowledged, heartbeat_position, split_at


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
    made = list(split_at(entries(*found.split()), commits))
    assert [" ".join(entry.watermark + "+" * (not entry.ends_transaction) for entry in part) for part in made] == parts
    assert commits == left


def at(seconds: int, increment: int = 1) -> str:
    return position.watermark(seconds << 32 | increment)


def parts(commits: Unacknowledged, after: str, *found: str, again: list[str] | None = None) -> list[list[str]]:
    """The watermarks of each part."""
    made = commits.split(after, entries(*found), [] if again is None else again)
    return [[entry.watermark for entry in part] for part in made]


def test_commits_of_another_process_can_have_ended_at_each_transaction_and_heartbeat() -> None:
    commits = Unacknowledged(heartbeat=60)
    found = [at(130), at(130, 2), at(180, 5) + "+", at(180, 5) + "+"]
    assert len(parts(commits, at(59), *found)) == 1, "no stream has resumed"
    commits.resumed(at(59))
    again: list[str] = []
    ends = [part[-1] for part in parts(commits, at(59), *found, again=again)]
    assert ends == [at(60, 0), at(120, 0), at(130), at(130, 2), at(180, 0), at(180, 5)]
    ends = [part[-1] for part in parts(commits, at(180, 5), at(180, 5), at(181), again=again)]
    assert ends == [at(180, 5), at(181)], "the open transaction ends, without a heartbeat inside"
    assert again == []


def test_commits_of_this_process_are_known() -> None:
    commits = Unacknowledged()
    commits.sent(at(70))
    commits.resumed(at(50))
    commits.resumed(at(70))
    assert parts(commits, at(70), at(71), at(72)) == [[at(71), at(72)]]
    commits.resumed(at(71))
    assert parts(commits, at(71), at(72), at(73)) == [[at(72)], [at(73)]]


def test_number_of_commits_sent_one_by_one_is_bounded() -> None:
    commits = Unacknowledged(heartbeat=1)
    commits.resumed(at(0))
    assert len(parts(commits, at(0), at(10**9))) == MAX_SINGLE + 1
    assert len(parts(commits, at(10**9), at(10**9, 2), at(10**9, 3))) == 1


def test_heartbeats_of_two_processes_have_the_same_positions() -> None:
    assert {heartbeat_position(seconds << 32 | 7, 60.9) for seconds in range(120, 180)} == {120 << 32}
    assert heartbeat_position(5 << 32 | 7, 0.5) == 5 << 32
