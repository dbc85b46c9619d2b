"""The command `retrain`: the plan that it stores."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

import scheduler.cli.models.training as module
from db.engine import Database
from db.tables import TrainingRun
from scheduler.cli import main


@pytest.mark.parametrize("named", [False, True])
def test_files_are_named_in_the_report_only_with_the_option(
    job_table: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.setattr(module, "_queue", lambda *_, **__: None)
    options = ["--names"] if named else []
    arguments = ["retrain", str(tmp_path), "--backbones", "resnet18,alexnet", "--random-weights", "--queue"]
    monkeypatch.setattr("sys.argv", ["pneumoscreen", *arguments, *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    with job_table.read() as session:
        plan = session.scalars(select(TrainingRun)).one().plan
    assert plan["names"] is named
    assert plan["backbones"] == ["resnet18", "alexnet"]
