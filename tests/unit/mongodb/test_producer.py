from __future__ import annotations

import logging
from collections.abc import Generator

import pytest

from zmsd.errors import ResumeLost, SourceError, SourceUnavailable, Stopped
from zmsd.mongodb.producer import Producer


def test_producer_passes_items_in_order_and_then_stops() -> None:
    closed = []

    def items() -> Generator[int, None, None]:
        try:
            yield from range(20)
        finally:
            closed.append(True)

    producer = Producer("numbers", items(), 2)
    producer.start()
    assert [producer.channel.get(10) for _ in range(20)] == list(range(20))
    with pytest.raises(Stopped):
        producer.channel.get(10)
    assert closed


def test_producer_whose_channel_is_closed_closes_its_generator() -> None:
    closed = []

    def items() -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    producer = Producer("numbers", items(), 2)
    producer.start()
    assert producer.channel.get(10) == 1
    producer.channel.close()
    producer.thread.join(10)
    assert closed


@pytest.mark.parametrize(
    ("error", "raised"), [(ResumeLost("gone"), ResumeLost), (KeyError("a bug"), SourceUnavailable)]
)
def test_producer_whose_generator_fails_passes_the_error_on(
    error: Exception, raised: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="zmsd")
    seen: list[SourceError] = []

    def items() -> Generator[int, None, None]:
        yield 1
        raise error

    producer = Producer("numbers", items(), 2, seen.append)
    producer.start()
    assert producer.channel.get(10) == 1
    with pytest.raises(raised):
        producer.channel.get(10)
    producer.thread.join(10)
    assert [type(each) for each in seen] == [raised]
    assert [record.getMessage() for record in caplog.records] == (
        ["internal error thread=numbers"] if isinstance(error, KeyError) else []
    )
