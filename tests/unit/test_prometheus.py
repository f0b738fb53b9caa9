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

from zmsd.prometheus import Distribution, Registry


@pytest.fixture
def registry() -> Registry:
    return Registry()


def samples(registry: Registry) -> dict[str, float]:
    """Parse the text as Prometheus does: name{label=value,…} -> number."""
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(registry.render())
        for sample in family.samples
    }


def test_registry_renders_text_format(registry: Registry) -> None:
    labelled = {("orders",): 12, ("parts",): 0.5}
    registry.callback("counter", "zmsd_events_total", "Change events read", lambda: labelled, ["collection"])
    registry.counter("zmsd_resets_total", "Resets")
    registry.callback("gauge", "zmsd_queue_fill_ratio", "Fill", lambda: 0.25)
    lag = registry.histogram("zmsd_lag_seconds", "Lag", [0.1, 1, 10])
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


def test_rendered_text_is_read_by_prometheus_parser(registry: Registry) -> None:
    registry.callback("counter", "zmsd_rows_total", "Rows", lambda: {("a b", "insert"): 3}, ["table", "op"])
    registry.histogram("zmsd_lag_seconds", "Lag", [1]).observe(2)
    families = {family.name: family for family in text_string_to_metric_families(registry.render())}
    assert {name: family.type for name, family in families.items()} == {
        "zmsd_rows": "counter",
        "zmsd_lag_seconds": "histogram",
    }
    assert samples(registry) == {
        "zmsd_rows_total table=a b op=insert": 3,
        "zmsd_lag_seconds_bucket le=1.0": 0,
        "zmsd_lag_seconds_bucket le=+Inf": 1,
        "zmsd_lag_seconds_sum": 2,
        "zmsd_lag_seconds_count": 1,
    }


# Not surrogates: the text is sent as UTF-8. Not control characters: the parser, not the format, breaks lines at them.
label_values = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]) | st.sampled_from('\n\\"{},= '))


@given(st.dictionaries(label_values, st.floats(allow_nan=False), max_size=5), label_values)
def test_any_label_help_and_number_survive_rendering(values: dict[str, float], help: str) -> None:
    registry = Registry()
    readings = {(collection, collection): value for collection, value in values.items()}
    registry.callback("gauge", "zmsd_x", help, lambda: readings, ["collection", "other"])
    (family,) = text_string_to_metric_families(registry.render())
    assert {sample.labels["collection"]: sample.value for sample in family.samples} == values
    assert all(sample.labels["collection"] == sample.labels["other"] for sample in family.samples)
    assert family.documentation.strip() == help.strip()


def test_special_numbers_are_written_as_prometheus_reads_them(registry: Registry) -> None:
    values = (math.nan, math.inf, -math.inf, True, 10**20, 1e-9)
    registry.callback("gauge", "zmsd_x", "", lambda: {(str(value),): value for value in values}, ["of"])
    numbers = [line.rpartition(" ")[2] for line in registry.render().splitlines()[2:]]
    assert numbers == ["NaN", "+Inf", "-Inf", "1", "100000000000000000000", "1e-09"]
    assert math.isnan(samples(registry)["zmsd_x of=nan"])


def test_histogram_value_accumulates_buckets(registry: Registry) -> None:
    lag = registry.histogram("zmsd_lag_seconds", "", (1, 2))
    assert lag.value() == Distribution(((1, 0), (2, 0), (math.inf, 0)), 0, 0)
    lag.observe(1.5)
    lag.observe(3)
    assert lag.value() == Distribution(((1, 0), (2, 1), (math.inf, 2)), 4.5, 2)


def test_callback_reading_is_shown_unless_unknown(registry: Registry) -> None:
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


def test_failing_callback_omits_only_its_metric(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> float:
        raise KeyError("x")

    registry.callback("gauge", "zmsd_broken", "", broken)
    registry.callback("gauge", "zmsd_mislabelled", "", lambda: 1.0, ["session"])
    registry.callback("gauge", "zmsd_fine", "", lambda: 1)
    assert samples(registry) == {"zmsd_fine": 1}
    assert "zmsd_broken" not in registry.render()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4
    assert "metric=zmsd_broken error=KeyError('x')" in caplog.text


@pytest.mark.parametrize("name", ["", "1x", "a-b", "a b", "x_total"])
def test_bad_gauge_name_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="not a valid name for a gauge"):
        registry.callback("gauge", name, "", lambda: 1)


def test_bad_definition_is_refused(registry: Registry) -> None:
    with pytest.raises(ValueError, match="not a valid name for a counter"):
        registry.counter("zmsd_events", "")
    for label in ("", "a-b", "__x"):
        with pytest.raises(ValueError, match="not a valid name for a label"):
            registry.callback("gauge", "zmsd_x", "", lambda: 1, [label])
    for bounds in ([2, 1], [1, 1], [1, math.inf]):
        with pytest.raises(ValueError, match="bounds must"):
            registry.histogram("zmsd_x", "", bounds)
    registry.histogram("zmsd_x", "", [1])
    with pytest.raises(ValueError, match="exists"):
        registry.callback("gauge", "zmsd_x", "", lambda: 1)


@pytest.fixture
def _switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_switching_often")
def test_concurrent_additions_are_all_counted(registry: Registry) -> None:
    counter = registry.counter("zmsd_x_total", "")
    histogram = registry.histogram("zmsd_z", "", [1])
    start = threading.Barrier(5)

    def add() -> None:
        start.wait()
        for number in range(5000):
            counter.inc(2)
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
    assert counter.value() == 40_000
    assert histogram.value().count == 20_000
    assert histogram.value().sum == 10_000
