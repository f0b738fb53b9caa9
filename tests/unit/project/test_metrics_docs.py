"""docs/metrics.rst and the example alerts name exactly the metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.fakes import FakeDispatcher, hub
from zmsd.metadata.metrics import register
from zmsd.metadata.monitor import Monitor
from zmsd.prometheus import Registry
from zmsd.schema.refresh import Refresh
from zmsd.verify.report import Summary
from zmsd.verify.report import register as register_verify

ROOT = Path(__file__).resolve().parents[3]


class Listing(Registry):
    """Records what is added: name -> (type, labels)."""

    def __init__(self) -> None:
        super().__init__()
        self.added: dict[str, tuple[str, tuple[str, ...]]] = {}

    def _add(self, kind: str, name: str, help: str, labels: Any, samples: Any) -> None:
        super()._add(kind, name, help, labels, samples)
        assert help, name
        self.added[name] = kind, tuple(labels)


@pytest.fixture
def metrics() -> dict[str, tuple[str, tuple[str, ...]]]:
    registry = Listing()
    served = hub(registry=registry)
    register_verify(registry, Summary("chat", 0, 0.0, 0.0))
    register(registry, Monitor(served, FakeDispatcher(served), list), Refresh(lambda: None))
    return registry.added


def test_each_metric_is_documented(metrics: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    text = (ROOT / "docs" / "metrics.rst").read_text()
    rows = re.findall(r"   \* - ``(\w+)``\n     - (\w+)\n     -(.*)\n     - \S", text)
    documented = {name: (kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert documented == metrics
    assert len(rows) == len(documented), "each once"
    assert set(re.findall(r"\b(?:zmsd|process)_[a-z_]+\b", text)) <= set(metrics)


def test_alerts_use_existing_metrics(metrics: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    rules = yaml.safe_load((ROOT / "etc" / "zmsd.rules.yml").read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        named = set(re.findall(r"\bzmsd_[a-z_]+\b", rule["expr"]))
        assert named or "up{" in rule["expr"]
        for name in named:
            kind, labels = metrics[name.removesuffix("_bucket")]
            assert name.endswith("_bucket") == (kind == "histogram")
            said = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
            assert {*said} <= {*labels, "instance"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_dashboard_uses_existing_metrics(metrics: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    dashboard = json.loads((ROOT / "etc" / "grafana.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        for target in panel["targets"]:
            names = set(re.findall(r"\b(?:zmsd|process)_[a-z_]+\b", target["expr"]))
            assert names, panel["title"]
            labels = {label for name in names for label in metrics[name.removesuffix("_bucket")][1]}
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= labels | {"instance"}, panel["title"]
