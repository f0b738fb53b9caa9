"""A reader waits longer only while small batches come in quick succession."""

from __future__ import annotations

from zmsd.mongodb.read_pause import FEW_EVENTS, LONG_SECONDS, QUICK_BATCHES, QUICK_SECONDS, SHORT_SECONDS, ReadPause


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
    scene.batches(QUICK_BATCHES, 0.001)
    assert scene.pause.seconds == SHORT_SECONDS


def test_pause_while_small_batches_come_in_quick_succession_is_long() -> None:
    scene = Scene()
    scene.batches(QUICK_BATCHES + 1, 0.001)
    assert scene.pause.seconds == LONG_SECONDS
    scene.batches(1, QUICK_SECONDS + 0.001)
    assert scene.pause.seconds == SHORT_SECONDS


def test_pause_of_a_slow_stream_stays_short() -> None:
    scene = Scene()
    scene.batches(1000, QUICK_SECONDS + 0.001)
    assert scene.pause.seconds == SHORT_SECONDS


def test_pause_after_a_large_batch_is_zero_and_then_short() -> None:
    """A backlog is read without a pause."""
    scene = Scene()
    scene.batches(QUICK_BATCHES + 1, 0.001)
    scene.batches(1, 0.001, events=FEW_EVENTS)
    assert scene.pause.seconds == 0
    scene.batches(1, 0.001)
    assert scene.pause.seconds == SHORT_SECONDS


def test_empty_batch_between_does_not_end_the_succession() -> None:
    scene = Scene()
    for _ in range(QUICK_BATCHES + 1):
        scene.batches(1, 0.001)
        scene.batches(1, 0.001, events=0)
    scene.batches(1, 0.001)
    assert scene.pause.seconds == LONG_SECONDS
