"""A reader waits longer the more events come in small batches."""

from __future__ import annotations

import pytest

from zmsd.mongodb.read_pause import FEW_EVENTS, LONG_RATE, LONG_SECONDS, SHORT_SECONDS, ReadPause


class Scene:
    """A ReadPause with a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pause = ReadPause(lambda: self.now)

    def batches(self, count: int, every: float, events: int = 1) -> None:
        for _ in range(count):
            self.now += every
            self.pause.received(events)


def test_pause_before_the_first_batch_and_after_an_empty_one_is_zero() -> None:
    scene = Scene()
    assert scene.pause.seconds == 0
    scene.batches(1, 0.0)
    scene.batches(1, 1.0, events=0)
    assert scene.pause.seconds == 0


def test_pause_after_few_writes_is_short() -> None:
    scene = Scene()
    scene.batches(10, 0.001)
    assert scene.pause.seconds == SHORT_SECONDS


def test_pause_of_a_slow_stream_stays_short() -> None:
    """A write every 20 ms, as by a person or a few."""
    scene = Scene()
    scene.batches(1000, 0.02)
    assert scene.pause.seconds == pytest.approx(SHORT_SECONDS)


@pytest.mark.parametrize(
    ("every", "events", "seconds"),
    [
        (1 / LONG_RATE, 1, LONG_SECONDS),
        (2 / LONG_RATE, 1, LONG_SECONDS / 2),
        (10 / LONG_RATE, 5, LONG_SECONDS / 2),
        (LONG_SECONDS, 50, LONG_SECONDS),
        (0.0, 1, LONG_SECONDS),
    ],
)
def test_pause_grows_with_the_rate_up_to_the_longest(every: float, events: int, seconds: float) -> None:
    scene = Scene()
    scene.batches(100, every, events)
    assert scene.pause.seconds == pytest.approx(seconds)


def test_pause_is_short_again_after_writes_have_ceased() -> None:
    scene = Scene()
    scene.batches(100, 1 / LONG_RATE)
    scene.batches(1, 5.0)
    assert scene.pause.seconds == SHORT_SECONDS


def test_large_batch_is_followed_by_no_pause_and_does_not_end_that_of_small_ones() -> None:
    """A backlog is read without a pause. At 5,000 events a second a batch after a long pause is large."""
    scene = Scene()
    scene.batches(100, 1 / LONG_RATE)
    scene.batches(1, LONG_SECONDS, events=FEW_EVENTS)
    assert scene.pause.seconds == 0
    scene.batches(1, 0.001)
    assert scene.pause.seconds == LONG_SECONDS


def test_empty_batch_does_not_change_the_rate() -> None:
    scene = Scene()
    for _ in range(20):
        scene.batches(1, 0.001)
        scene.batches(1, 0.001, events=0)
    scene.batches(1, 0.001)
    assert scene.pause.seconds == pytest.approx(LONG_SECONDS / 2)
