from __future__ import annotations

import pytest
from bson import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from zmsd import position
from zmsd.mongodb import resume_token

positions = st.integers(0, 2**64 - 1)
minors = st.integers(0, 2**20)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "00"), (10, "0a"), (35, "0z"), (36, "110"), (1295, "1zz"), (1296, "2100"), (2**64 - 1, "c3w5e11264sgsf")],
)
def test_watermark_is_a_lexi_version(number: int, text: str) -> None:
    assert position.lexi(number) == text
    assert position.unlexi(text) == number


@given(positions, minors)
def test_watermark_parses_to_its_position(at: int, minor: int) -> None:
    assert position.parse(position.watermark(at, minor)) == (at, minor)


@given(st.tuples(positions, minors), st.tuples(positions, minors))
def test_watermarks_sort_as_text_like_their_positions(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (position.watermark(*one) < position.watermark(*other)) == (one < other)


@given(st.integers(0, 2**64 - 2), st.integers(1, 2**20))
def test_minor_watermark_sorts_between_its_position_and_the_next(at: int, minor: int) -> None:
    assert position.watermark(at) < position.watermark(at, minor) < position.watermark(at + 1)


@given(st.text(alphabet="0123456789abcxyzABC.-_ +\n٣é", max_size=18) | st.text(max_size=18))
def test_any_other_text_is_not_a_watermark(text: str) -> None:
    try:
        at, minor = position.parse(text)
    except ValueError:
        return
    assert position.watermark(at) == text.partition(".")[0], "only what would have been written is read"
    assert position.lexi(minor) == text.partition(".")[2] or "." not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        ".",
        "00.",
        ".00",
        "0A",
        "10a",
        "100",
        "00.00.00",
        " 00",
        "00 ",
        "1_0",
        "+0",
        "c3w5e11264sgsg",
        "0" * 9999,
    ],
)
def test_invalid_watermark_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (int() has a message of its own)
        position.parse(text)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_position_is_a_cluster_time(seconds: int, increment: int) -> None:
    time = Timestamp(seconds, increment)
    at = position.of_timestamp(time)
    assert position.to_timestamp(at) == time
    assert position.seconds(at) == seconds
    assert resume_token.position_of({"_data": f"82{at:016X}2B0229296E04"}) == at


def test_position_after_the_last_increment_is_in_the_next_second() -> None:
    assert position.to_timestamp(position.of_timestamp(Timestamp(7, 2**32 - 1)) + 1) == Timestamp(8, 0)
