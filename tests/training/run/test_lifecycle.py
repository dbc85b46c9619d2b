"""Training runs from labelled images to their end, with and without interruptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from db.engine import Database
from db.models.registry import GateNotPassed, check_gate, find_champion, find_model
from db.models.store import read_card
from db.states import RunState
from db.tables import Event, TrainingResult
from db.training.runs import RunNotOpen, find_run, reopen_run
from training.data.dataset import TooFewImages
from training.data.labelled import LabelledFolderMissing
from training.fitting.callbacks import Autocast
from training.fitting.fine_tuning import TooFewForBatch
from training.recipe import RECIPES, RecipeName
from training.run.conclusion import Finished
from training.run.lifecycle import train
from training.run.progress import Step
from worker.runtime.loading import load_model

#: The types of the fixtures `draw` and `start`; `trained` is a `Trained` of `conftest.py`.
Draw = Callable[..., None]
Start = Callable[..., int]

# One process of pytest-xdist runs all these tests, as they share a trained run.
pytestmark = pytest.mark.xdist_group("training")

#: The head alone is trained, for one epoch.
SHORT = replace(RECIPES[RecipeName.CLINICAL], epochs=0, batch_size=8)


def table(finished: Finished) -> list[tuple[float, float, float]]:
    """Return the columns of the thesis' table 4, epoch by epoch."""
    (outcome,) = finished.outcomes
    return [(one.train_loss, one.valid_loss, one.accuracy) for one in outcome.epochs]


def kill_in_epoch(number: int) -> Callable[[Step], None]:
    """Return a callback that interrupts the run in the middle of an epoch."""

    def on_step(step: Step) -> None:
        if len(step.epochs) == number:
            raise KeyboardInterrupt

    return on_step


def test_a_run_stores_candidates_reports_and_compares_with_the_champion(trained: Any) -> None:
    finished, database = trained.finished, trained.database
    steps = trained.steps
    assert [step.part for step in steps] == sorted(step.part for step in steps)
    assert 0 < steps[0].part < steps[-1].part <= 1
    (outcome,) = finished.outcomes
    assert [epoch.epoch for epoch in outcome.epochs] == [0, 1, 2]
    card = read_card(database.models_folder / outcome.model_id)
    assert card.training["data_fingerprint"]
    assert card.training["initial_weights_digest"] is None
    assert (card.temperature, card.threshold) == (outcome.temperature, outcome.threshold)
    report = json.loads((finished.report.parent / "report.json").read_text())
    assert report["data"]["leaked"] == 0
    assert report["data"]["told_by"] == {"nothing": 12, "name": 12}
    assert report["random_weights"] == ["resnet18"]
    with database.read() as session:
        assert find_run(session, finished.run_id).state is RunState.DONE
        result = session.scalars(select(TrainingResult)).one()
        assert len(result.epochs) == 3
        assert result.model_id == find_model(session, outcome.model_id).id
        assert finished.decision is not None
        event = session.scalars(select(Event).where(Event.action.in_(("gate.yes", "gate.no")))).one()
        champion = find_champion(session)
        with nullcontext() if finished.decision.passed else pytest.raises(GateNotPassed):
            check_gate(session, find_model(session, outcome.model_id))
    assert event.detail["reasons"] == finished.decision.reasons
    assert champion is not None
    assert (champion.name == outcome.model_id) == finished.decision.passed == finished.promoted


def test_a_run_that_is_killed_twice_goes_on_to_the_same_table(
    job_table: Database, labelled: Path, start: Start, trained: Any
) -> None:
    run_id = start(job_table, trained.recipe, labelled)
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            train(job_table, run_id, on_step=kill_in_epoch(epoch))
        with job_table.read() as session:
            assert find_run(session, run_id).state is RunState.STOPPED
        with job_table.write() as session:
            reopen_run(session, run_id, for_worker=False)
    resumed = train(job_table, run_id)
    assert table(resumed) == table(trained.finished)
    assert resumed.outcomes[0].model_id == trained.finished.outcomes[0].model_id


def test_a_machine_that_emulates_bfloat16_trains_in_single_precision(
    job_table: Database, labelled: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Autocast) -> None:
        raise AssertionError("bfloat16 was emulated")

    monkeypatch.setattr("training.fitting.fine_tuning.native_bf16", lambda _: False)
    monkeypatch.setattr(Autocast, "before_batch", fail)
    (outcome,) = train(job_table, start(job_table, SHORT, labelled)).outcomes
    assert read_card(job_table.models_folder / outcome.model_id).training["precision"] == "fp32"


def test_the_thesis_recipe_splits_and_stops_as_the_thesis(
    job_table: Database, labelled: Path, start: Start
) -> None:
    thesis = replace(RECIPES[RecipeName.THESIS], epochs=0, batch_size=8)
    finished = train(job_table, start(job_table, thesis, labelled))
    (outcome,) = finished.outcomes
    assert (outcome.temperature, outcome.threshold) == (1.0, 0.5)
    report = json.loads((finished.report.parent / "report.json").read_text())
    assert [row["backbone"] for row in report["thesis"]] == ["resnet18", "resnet34", "resnet50", "alexnet"]
    assert sum(report["data"]["held_out"].values()) == 4


def test_three_classes_are_trained_and_screened_by_name(
    job_table: Database, labelled: Path, start: Start
) -> None:
    classes = ("NORMAL", "BACTERIAL", "VIRAL")
    finished = train(job_table, start(job_table, SHORT, labelled, classes=classes))
    card = load_model(job_table.models_folder / finished.winner).card
    assert card.classes == classes
    assert card.positives == ("BACTERIAL", "VIRAL")
    report = json.loads((finished.report.parent / "report.json").read_text())
    assert len(report["backbones"][0]["confusion"]) == 3


def test_unusable_data_is_refused_before_the_first_epoch(
    job_table: Database, labelled: Path, start: Start, draw: Draw, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    for number in range(5):
        draw(tmp_path / "few" / "NORMAL", f"{number}.png", 60, random)
        draw(tmp_path / "few" / "PNEUMONIA", f"{number}.png", 180, random)
        draw(tmp_path / "one" / "NORMAL", f"{number}.png", 60, random)
    for data, error in ((tmp_path / "few", TooFewImages), (tmp_path / "one", LabelledFolderMissing)):
        run_id = start(job_table, SHORT, data)
        with pytest.raises(error):
            train(job_table, run_id)
        with job_table.read() as session:
            run = find_run(session, run_id)
            assert (run.state, run.problem) == (RunState.FAILED, error.code)
        with pytest.raises(RunNotOpen):
            train(job_table, run_id)
        with job_table.write() as session:
            reopen_run(session, run_id, for_worker=False)
        with pytest.raises(error):
            train(job_table, run_id)
    large = start(job_table, replace(SHORT, batch_size=500), labelled)
    with pytest.raises(Exception, match=TooFewForBatch.code):
        train(job_table, large)
