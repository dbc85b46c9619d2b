"""The alert rules and the dashboard: their metrics exist, and the rules pass their own tests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from db.engine import Database
from scheduler.metrics.broker import BrokerFigures
from scheduler.metrics.collect import JobTableCollector

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "pneumoscreen.json"


@pytest.fixture
def exported(database: Database) -> set[str]:
    """Return the names of the samples of every metric."""
    collector = JobTableCollector(database, lambda: BrokerFigures(up=True), 60)
    names = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in collector.collect()
    }
    # This metric does not exist before the first batch.
    return names | {"pneumoscreen_seconds_since_batch"}


def asked_for(expression: str) -> set[str]:
    return set(re.findall(r"pneumoscreen_\w+", expression))


def test_alerts_use_only_existing_metrics(exported: set[str]) -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]:
        assert asked_for(rule["expr"]) <= exported, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}


def test_the_dashboard_shows_only_existing_metrics(exported: set[str]) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = set().union(*(asked_for(target["expr"]) for panel in panels for target in panel["targets"]))
    assert shown <= exported
    # The dashboard shows the metrics of the alerts.
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    alerted = set().union(*(asked_for(rule["expr"]) for rule in group["rules"]))
    assert alerted - shown <= {"pneumoscreen_seconds_since_batch", "pneumoscreen_broker_up"}
    cells = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(cells)) == len(cells)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "command", ["check rules alerts.yml", "test rules alerts.test.yml", "check config prometheus.yml"]
)
def test_promtool_accepts_the_rules_and_the_configuration(command: str) -> None:
    done = subprocess.run(
        ["promtool", *command.split()], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
