"""The dashboard and the alerts ask only for what /metrics has."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flserver import events as e
from flserver.observers.metrics import ELSEWHERE, Metrics
from tests import facts
from tests.observers.observed_run import SERVER_STARTED

OPS = Path(__file__).parents[2] / "ops"


@pytest.fixture
def exposed(run_events: list[e.Event]) -> dict[str, set[str]]:
    """Every sample name of ours with its label names."""
    metrics = Metrics(dict.fromkeys(ELSEWHERE, lambda: 1.0))
    for event in [SERVER_STARTED, *run_events, facts.node_started()]:
        metrics.observe(event)
    metrics.commit_took(0.001)
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(metrics.exposition()[0].decode())
        for sample in family.samples
    }


def expressions() -> list[str]:
    dashboard = json.loads((OPS / "grafana/flserver.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    alerts = re.findall(
        r"^        expr: (?:>-\n)?(.*?)(?=^        \w)", (OPS / "prometheus/alerts.yml").read_text(), re.M | re.S
    )
    assert panels
    assert alerts
    return panels + alerts


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_exposed(expression: str, exposed: dict[str, set[str]]) -> None:
    for name, selector in re.findall(r"\b(flserver_\w+)(?:\{([^}]*)\})?", expression):
        assert name in exposed
        labels = set(re.findall(r"(\w+)(?:=~|!=|=)\"", selector)) - {"instance", "job"}
        assert labels <= exposed[name]


def test_panels_are_described_and_do_not_overlap() -> None:
    panels = json.loads((OPS / "grafana/flserver.json").read_text())["panels"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells
        assert max(x for x, _ in mine) < 24
        cells |= mine
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_port_is_the_servers_default() -> None:
    assert '"127.0.0.1:9464"' in (OPS / "prometheus/prometheus.yml").read_text()


def test_the_alerts_tests_know_the_alerts() -> None:
    """By name: promtool, which runs them, is nothing that the tests need."""
    tested = (OPS / "prometheus/alerts_test.yml").read_text()
    assert {"FlserverNodesGo", "FlserverNodeMissing"} <= set(re.findall(r"\bFlserver\w+", tested))
    alerts = set(re.findall(r"- alert: (\w+)", (OPS / "prometheus/alerts.yml").read_text()))
    assert set(re.findall(r"\bFlserver\w+", tested)) <= alerts
