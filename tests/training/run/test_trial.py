"""Trials: each backbone of a run on its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import training.run.trial as module
from db.engine import Database
from training.run.lifecycle import run_folder, train

#: The type of the fixture `start_trained`.
Start = Callable[..., int]

pytestmark = pytest.mark.xdist_group("training")


def test_a_failed_backbone_does_not_lose_the_others(
    job_table: Database, start_trained: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(backbone: str, *_: object, **__: object) -> object:
        assert backbone == "alexnet"
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "fit_backbone", fails)
    finished = train(job_table, start_trained(backbones=("alexnet", "resnet18")))
    assert [outcome.backbone for outcome in finished.outcomes] == ["resnet18"]
    assert [(failed.backbone, failed.problem) for failed in finished.failed] == [
        ("alexnet", "training-failed")
    ]
    assert "alexnet" in finished.report.read_text()


def test_a_backbone_whose_outcome_was_cut_off_is_trained_again(
    job_table: Database, start_trained: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TrainedAgain(Exception):
        pass

    def trains(backbone: str, *_: object, **__: object) -> object:
        raise TrainedAgain(backbone)

    monkeypatch.setattr(module, "fit_backbone", trains)
    run_id = start_trained()
    (file,) = Path(run_folder(run_id)).glob("resnet18-*/outcome.json")
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(TrainedAgain, match="resnet18"):
        train(job_table, run_id)
