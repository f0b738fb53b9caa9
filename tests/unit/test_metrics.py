from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from zmsd.metrics import Distribution, Registry


@pytest.fixture
def registry() -> Registry:
    return Registry()


def samples(registry: Registry) -> dict[str, float]:
    """What Prometheus makes of the text: name{label=value,…} -> number."""
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(registry.render())
        for sample in family.samples
    }


def test_the_text(registry: Registry) -> None:
    events = registry.counter("zmsd_events_total", "Change events read", ["collection"])
    events.labels(collection="orders").inc()
    events.labels(collection="orders").inc(11)
    events.labels(collection="parts").inc(0.5)
    registry.counter("zmsd_resets_total", "Resets").labels()
    registry.gauge("zmsd_queue_fill_ratio", "Fill").labels().set(0.25)
    lag = registry.histogram("zmsd_lag_seconds", "Lag", [0.1, 1, 10]).labels()
    for seconds in (0.05, 0.1, 0.2, 100):
        lag.observe(seconds)
    assert registry.render() == (
        "# HELP zmsd_events_total Change events read\n"
        "# TYPE zmsd_events_total counter\n"
        'zmsd_events_total{collection="orders"} 12\n'
        'zmsd_events_total{collection="parts"} 0.5\n'
        "# HELP zmsd_resets_total Resets\n"
        "# TYPE zmsd_resets_total counter\n"
        "zmsd_resets_total 0\n"
        "# HELP zmsd_queue_fill_ratio Fill\n"
        "# TYPE zmsd_queue_fill_ratio gauge\n"
        "zmsd_queue_fill_ratio 0.25\n"
        "# HELP zmsd_lag_seconds Lag\n"
        "# TYPE zmsd_lag_seconds histogram\n"
        'zmsd_lag_seconds_bucket{le="0.1"} 2\n'
        'zmsd_lag_seconds_bucket{le="1.0"} 3\n'
        'zmsd_lag_seconds_bucket{le="10.0"} 3\n'
        'zmsd_lag_seconds_bucket{le="+Inf"} 4\n'
        "zmsd_lag_seconds_sum 100.35\n"
        "zmsd_lag_seconds_count 4\n"
    )


def test_prometheus_reads_it(registry: Registry) -> None:
    registry.counter("zmsd_rows_total", "Rows", ["table", "op"]).labels(op="insert", table="a b").inc(3)
    registry.histogram("zmsd_lag_seconds", "Lag", [1], ["session"]).labels(session=7).observe(2)
    families = {family.name: family for family in text_string_to_metric_families(registry.render())}
    assert {name: family.type for name, family in families.items()} == {
        "zmsd_rows": "counter",
        "zmsd_lag_seconds": "histogram",
    }
    assert samples(registry) == {
        "zmsd_rows_total table=a b op=insert": 3,
        "zmsd_lag_seconds_bucket session=7 le=1.0": 0,
        "zmsd_lag_seconds_bucket session=7 le=+Inf": 1,
        "zmsd_lag_seconds_sum session=7": 2,
        "zmsd_lag_seconds_count session=7": 1,
    }


# Not surrogates: the text is sent as UTF-8. Not control characters: the parser, not the format, breaks lines at them.
label_values = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]) | st.sampled_from('\n\\"{},= '))


@given(st.dictionaries(label_values, st.floats(allow_nan=False), max_size=5), label_values)
def test_any_label_help_and_number(values: dict[str, float], help: str) -> None:
    registry = Registry()
    gauge = registry.gauge("zmsd_x", help, ["collection", "other"])
    for collection, value in values.items():
        gauge.labels(collection=collection, other=collection).set(value)
    (family,) = text_string_to_metric_families(registry.render())
    assert {sample.labels["collection"]: sample.value for sample in family.samples} == values
    assert all(sample.labels["collection"] == sample.labels["other"] for sample in family.samples)
    assert family.documentation.strip() == help.strip()


def test_special_numbers(registry: Registry) -> None:
    gauge = registry.gauge("zmsd_x", "", ["of"])
    for value in (math.nan, math.inf, -math.inf, True, 10**20, 1e-9):
        gauge.labels(of=value).set(value)
    numbers = [line.rpartition(" ")[2] for line in registry.render().splitlines()[2:]]
    assert numbers == ["NaN", "+Inf", "-Inf", "1", "100000000000000000000", "1e-09"]
    assert math.isnan(samples(registry)["zmsd_x of=nan"])


def test_children(registry: Registry) -> None:
    sessions = registry.gauge("zmsd_backlog_bytes", "", ["session"])
    first = sessions.labels(session=1)
    assert sessions.labels(session="1") is first
    sessions.labels(session=2).inc(5)
    sessions.labels(session=2).inc(-2)
    first.set(9)
    assert {key: child.value() for key, child in sessions.children().items()} == {("1",): 9, ("2",): 3}
    sessions.remove(session=1)
    sessions.remove(session="never")
    assert samples(registry) == {"zmsd_backlog_bytes session=2": 3}


def test_distribution(registry: Registry) -> None:
    lag = registry.histogram("zmsd_lag_seconds", "", (1, 2)).labels()
    assert lag.value() == Distribution(((1, 0), (2, 0), (math.inf, 0)), 0, 0)
    lag.observe(1.5)
    lag.observe(3)
    assert lag.value() == Distribution(((1, 0), (2, 1), (math.inf, 2)), 4.5, 2)


def test_callbacks(registry: Registry) -> None:
    headroom: float | None = 3600.5
    registry.callback("gauge", "zmsd_oplog_headroom_seconds", "", lambda: headroom)
    registry.callback("counter", "zmsd_gets_total", "", lambda: {("a", "x"): 1, ("b", "y"): 2}, ["collection", "kind"])
    assert samples(registry) == {
        "zmsd_oplog_headroom_seconds": 3600.5,
        "zmsd_gets_total collection=a kind=x": 1,
        "zmsd_gets_total collection=b kind=y": 2,
    }
    headroom = None
    assert "zmsd_oplog_headroom_seconds" not in samples(registry)


def test_a_callback_that_fails_leaves_only_itself_out(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> float:
        raise KeyError("x")

    registry.callback("gauge", "zmsd_broken", "", broken)
    registry.callback("gauge", "zmsd_mislabelled", "", lambda: 1.0, ["session"])
    registry.gauge("zmsd_fine", "").labels().set(1)
    assert samples(registry) == {"zmsd_fine": 1}
    assert "zmsd_broken" not in registry.render()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4
    assert "metric=zmsd_broken error=KeyError('x')" in caplog.text


@pytest.mark.parametrize("name", ["", "1x", "a-b", "a b", "x_total"])
def test_bad_names_of_gauges(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="no name for a gauge"):
        registry.gauge(name, "")


def test_bad_definitions(registry: Registry) -> None:
    with pytest.raises(ValueError, match="no name for a counter"):
        registry.counter("zmsd_events", "")
    for label in ("", "a-b", "__x"):
        with pytest.raises(ValueError, match="no name for a label"):
            registry.gauge("zmsd_x", "", [label])
    with pytest.raises(ValueError, match="no name for a label"):
        registry.histogram("zmsd_x", "", [1], ["le"])
    for bounds in ([2, 1], [1, 1], [1, math.inf]):
        with pytest.raises(ValueError, match="bounds must"):
            registry.histogram("zmsd_x", "", bounds)
    family = registry.gauge("zmsd_x", "", ["a"])
    with pytest.raises(ValueError, match="exists"):
        registry.gauge("zmsd_x", "")
    for labels in ({}, {"b": 1}, {"a": 1, "b": 1}):
        with pytest.raises(ValueError, match="labels are"):
            family.labels(**labels)


@pytest.fixture
def _switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_switching_often")
def test_no_addition_is_lost_between_threads(registry: Registry) -> None:
    counters = registry.counter("zmsd_x_total", "", ["of"])
    gauge = registry.gauge("zmsd_y", "").labels()
    histogram = registry.histogram("zmsd_z", "", [1]).labels()
    start = threading.Barrier(5)

    def add() -> None:
        start.wait()
        for number in range(5000):
            counters.labels(of=number % 3).inc(2)
            gauge.inc()
            histogram.observe(number % 2)

    def render() -> None:
        start.wait()
        for _ in range(50):
            shown = samples(registry)
            assert shown["zmsd_z_count"] == shown["zmsd_z_bucket le=+Inf"]

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    render()
    for thread in threads:
        thread.join()
    assert sum(child.value() for child in counters.children().values()) == 40_000
    assert gauge.value() == 20_000
    assert histogram.value().count == 20_000
    assert histogram.value().sum == 10_000
