from __future__ import annotations

from zmsd.gateway.join_delay import FEW_ROWS, PATIENCE_SECONDS, JoinDelay

BOUND = 0.02


class Scene:
    """A JoinDelay with a clock of its own."""

    def __init__(self, bound: float = BOUND) -> None:
        self.now = 100.0
        self.delay = JoinDelay(bound, lambda: self.now)
        self.newest: str | None = None

    def sent(self, watermark: str, rows: int = 1) -> None:
        self.delay.sent(watermark, rows)

    def remaining(self) -> float:
        return round(self.delay.remaining(self.newest), 6)


def test_join_delay_without_a_sent_commit_is_zero() -> None:
    assert Scene().remaining() == 0


def test_join_delay_lasts_until_the_ack() -> None:
    scene = Scene()
    scene.sent("a")
    scene.now += 0.005
    assert scene.remaining() == 0.015
    scene.newest = "a"
    assert scene.remaining() == 0


def test_join_delay_lasts_until_the_newest_commit_is_acknowledged() -> None:
    scene = Scene()
    scene.sent("a")
    scene.sent("b")
    scene.newest = "a"
    assert scene.remaining() == BOUND
    scene.newest = "b"
    assert scene.remaining() == 0


def test_join_delay_without_an_ack_ends_at_the_bound() -> None:
    scene = Scene()
    scene.sent("a")
    scene.now += BOUND
    assert scene.remaining() == 0
    scene.sent("b")
    assert scene.remaining() == BOUND


def test_join_delay_after_many_rows_is_zero() -> None:
    """The rows cost zero-cache more than the transaction does, and a backlog must not wait."""
    scene = Scene()
    scene.sent("a", FEW_ROWS)
    assert scene.remaining() == 0


def test_join_delay_of_zero_holds_nothing() -> None:
    scene = Scene(0)
    scene.sent("a")
    assert scene.remaining() == 0


def lagging(scene: Scene) -> None:
    """Send a commit that is not acknowledged for longer than PATIENCE_SECONDS."""
    scene.sent("a")
    scene.now += PATIENCE_SECONDS + 0.001
    scene.sent("b")
    assert scene.remaining() == 0


def test_join_delay_while_acks_lag_is_zero_for_each_later_burst() -> None:
    scene = Scene()
    lagging(scene)
    for mark in "cde":
        scene.now += 60
        scene.sent(mark)
        assert scene.remaining() == 0


def test_join_delay_after_a_late_ack_stays_zero() -> None:
    """A backup releases the acks of minutes at once: that says nothing about the next ones."""
    scene = Scene()
    lagging(scene)
    scene.now += 60
    scene.newest = "b"
    assert scene.remaining() == 0
    scene.sent("c")
    assert scene.remaining() == 0


def test_join_delay_begins_again_after_a_prompt_ack() -> None:
    scene = Scene()
    lagging(scene)
    scene.sent("c")
    scene.now += 0.004
    scene.newest = "c"
    assert scene.remaining() == 0
    scene.sent("d")
    assert scene.remaining() == BOUND


def test_join_delay_of_a_busy_client_goes_on_while_acks_come() -> None:
    """zero-cache is seconds behind: just then it needs fewer transactions."""
    scene = Scene()
    for number in range(200, 300):
        scene.sent(str(number))
        scene.now += PATIENCE_SECONDS / 10
        scene.newest = str(number - 20)
        scene.remaining()
    scene.sent("300")
    assert scene.remaining() == BOUND


def test_join_delay_after_a_quiet_hour_does_not_count_the_quiet() -> None:
    scene = Scene()
    scene.sent("a")
    scene.newest = "a"
    scene.remaining()
    scene.now += 3600
    scene.sent("b")
    assert scene.remaining() == BOUND
