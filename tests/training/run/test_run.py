"""A training run from labelled images to the gate, interrupted and not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from db.engine import Database
from db.models.card import CARD_FILE, read_card
from db.models.registry import find_champion, find_model, import_model, promote
from db.states import ModelState, RunState
from db.tables import Event, TrainingResult
from db.training.runs import RunNotOpen, find_run, reopen_run
from training.data.dataset import TooFewImages
from training.data.labelled import LabelledFolderMissing
from training.evaluation.promotion import Decision
from training.fitting.callbacks import Autocast
from training.fitting.fine_tuning import TooFewForBatch
from training.outcome import Answers, HeldOut
from training.recipe import RECIPES, RecipeName
from training.run.conclusion import Finished
from training.run.lifecycle import run_folder, train
from training.run.progress import Step
from worker.runtime.torch import ResidentLearner, positive_probability

#: What the fixtures of these names do.
Draw = Callable[..., None]
Start = Callable[..., int]

CLINICAL = replace(RECIPES[RecipeName.CLINICAL], epochs=2, batch_size=16)
THESIS = replace(RECIPES[RecipeName.THESIS], epochs=2, batch_size=16)


def table(finished: Finished) -> list[tuple[float, float, float]]:
    """Return what table 4 of the thesis holds, epoch by epoch."""
    (outcome,) = finished.outcomes
    return [(one.train_loss, one.valid_loss, one.accuracy) for one in outcome.epochs]


def kill_in_epoch(number: int) -> Callable[[Step], None]:
    """Return a step that ends the run in the middle of an epoch."""

    def on_step(step: Step) -> None:
        if len(step.epochs) == number:
            raise KeyboardInterrupt

    return on_step


def test_a_machine_that_imitates_bfloat16_trains_in_single_precision(
    job_table: Database, labelled: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Autocast) -> None:
        raise AssertionError("bfloat16 was imitated")

    monkeypatch.setattr("training.fitting.fine_tuning.native_bf16", lambda _: False)
    monkeypatch.setattr(Autocast, "before_batch", fail)
    (outcome,) = train(job_table, start(job_table, CLINICAL, labelled)).outcomes
    assert read_card(job_table.models_folder / outcome.model_id).training["precision"] == "fp32"


def test_a_run_stores_candidates_reports_and_asks_the_gate(
    job_table: Database, labelled: Path, start: Start
) -> None:
    steps: list[Step] = []
    run_id = start(job_table, CLINICAL, labelled, promote="auto")
    finished = train(job_table, run_id, on_step=steps.append)
    assert [step.part for step in steps] == sorted(step.part for step in steps)
    assert 0 < steps[0].part < steps[-1].part <= 1
    (outcome,) = finished.outcomes
    assert [epoch.epoch for epoch in outcome.epochs] == [0, 1, 2]
    card = read_card(job_table.models_folder / outcome.model_id)
    assert card.training["data_fingerprint"]
    assert card.training["initial_weights_digest"] is None
    report = json.loads((finished.report.parent / "report.json").read_text())
    assert report["data"]["leaked"] == 0
    assert report["data"]["told_by"] == {"nothing": 24, "name": 24}
    assert report["random_weights"] == ["resnet18"]
    with job_table.read() as session:
        assert find_run(session, run_id).state is RunState.DONE
        result = session.scalars(select(TrainingResult)).one()
        assert len(result.epochs) == 3
        assert result.model_id == find_model(session, outcome.model_id).id
        gate = session.scalars(select(Event).where(Event.action.in_(("gate.yes", "gate.no")))).one()
        champion = find_champion(session)
    assert finished.decision is not None
    assert gate.detail["reasons"] == finished.decision.reasons
    assert champion is not None
    assert (champion.name == outcome.model_id) == finished.decision.passed == finished.promoted


def test_a_killed_run_goes_on_to_the_same_table(job_table: Database, labelled: Path, start: Start) -> None:
    whole = train(job_table, start(job_table, CLINICAL, labelled))
    for epoch in (1, 2):
        run_id = start(job_table, CLINICAL, labelled)
        with pytest.raises(KeyboardInterrupt):
            train(job_table, run_id, on_step=kill_in_epoch(epoch))
        with job_table.read() as session:
            assert find_run(session, run_id).state is RunState.STOPPED
        resumed = train(job_table, run_id)
        assert table(resumed) == table(whole)
        assert resumed.outcomes[0].model_id == whole.outcomes[0].model_id


def test_the_thesis_recipe_splits_and_stops_as_the_thesis(
    job_table: Database, labelled: Path, start: Start
) -> None:
    finished = train(job_table, start(job_table, THESIS, labelled))
    (outcome,) = finished.outcomes
    assert (outcome.temperature, outcome.threshold) == (1.0, 0.5)
    report = json.loads((finished.report.parent / "report.json").read_text())
    assert [row["backbone"] for row in report["thesis"]] == ["resnet18", "resnet34", "resnet50", "alexnet"]
    assert sum(report["data"]["held_out"].values()) == 9


def test_three_classes_are_trained_and_screened_by_name(
    job_table: Database, labelled: Path, start: Start
) -> None:
    classes = ("NORMAL", "BACTERIAL", "VIRAL")
    finished = train(job_table, start(job_table, CLINICAL, labelled, classes=classes))
    learner = ResidentLearner.load(job_table.models_folder / finished.winner)
    assert learner.card.classes == classes
    assert learner.card.positives == ("BACTERIAL", "VIRAL")
    report = json.loads((finished.report.parent / "report.json").read_text())
    assert len(report["backbones"][0]["confusion"]) == 3


def test_a_failed_backbone_does_not_lose_the_others(
    job_table: Database, labelled: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.run.trial as module

    real = module.fit_backbone

    def breaks(backbone: str, *rest: object, **options: object) -> object:
        if backbone == "alexnet":
            raise RuntimeError("out of memory")
        return real(backbone, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fit_backbone", breaks)
    one = replace(CLINICAL, epochs=1)
    finished = train(job_table, start(job_table, one, labelled, backbones=("alexnet", "resnet18")))
    assert [outcome.backbone for outcome in finished.outcomes] == ["resnet18"]
    assert [(failed.backbone, failed.problem) for failed in finished.failed] == [
        ("alexnet", "training-failed")
    ]
    assert "alexnet" in finished.report.read_text()


def test_what_cannot_be_trained_on_is_said_before_the_first_epoch(
    job_table: Database, labelled: Path, start: Start, draw: Draw, tmp_path: Path
) -> None:
    import numpy as np

    random = np.random.default_rng(0)
    for number in range(5):
        draw(tmp_path / "few" / "NORMAL", f"{number}.png", 60, random)
        draw(tmp_path / "few" / "PNEUMONIA", f"{number}.png", 180, random)
        draw(tmp_path / "one" / "NORMAL", f"{number}.png", 60, random)
    for data, error in ((tmp_path / "few", TooFewImages), (tmp_path / "one", LabelledFolderMissing)):
        run_id = start(job_table, CLINICAL, data)
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
    large = replace(CLINICAL, batch_size=500)
    finished = start(job_table, large, labelled)
    with pytest.raises(Exception, match=TooFewForBatch.code):
        train(job_table, finished)


def test_a_champion_that_reigns_is_not_dethroned_by_asking(
    job_table: Database, labelled: Path, start: Start
) -> None:
    finished = train(job_table, start(job_table, replace(CLINICAL, epochs=1), labelled))
    assert not finished.promoted
    with job_table.read() as session:
        assert find_model(session, finished.winner).state is ModelState.CANDIDATE


def test_a_card_that_is_swapped_after_import_decides_no_gate(
    job_table: Database, labelled: Path, start: Start, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.run.conclusion as module

    card = job_table.models_folder / artefact.name / CARD_FILE
    content = json.loads(card.read_text())
    card.write_text(json.dumps(content | {"classes": content["classes"][::-1]}))
    real, asked = module.decide, []

    def look_on(challenger: Answers, champion: Answers, held_out: HeldOut) -> Decision:
        asked.append((champion, held_out))
        return real(challenger, champion, held_out)

    monkeypatch.setattr(module, "decide", look_on)
    train(job_table, start(job_table, replace(CLINICAL, epochs=1), labelled))
    ((champion, held_out),) = asked
    learner = ResidentLearner.load(artefact)
    expected = positive_probability(learner.card, learner.probabilities(held_out.pixels))
    assert np.abs(champion.probability - expected).max() < 1e-5


def test_a_champion_that_was_promoted_while_the_gate_was_asked_stays(
    job_table: Database,
    labelled: Path,
    start: Start,
    other_artefact: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import training.run.conclusion as module

    other, real = import_model(job_table, other_artefact), module.decide

    def overtaken(challenger: Answers, champion: Answers, held_out: HeldOut) -> Decision:
        with job_table.write() as session:
            promote(session, other.name)
        return replace(real(challenger, champion, held_out), passed=True)

    monkeypatch.setattr(module, "decide", overtaken)
    finished = train(job_table, start(job_table, replace(CLINICAL, epochs=1), labelled, promote="auto"))
    assert not finished.promoted
    with job_table.read() as session:
        champion = find_champion(session)
        events = session.scalars(select(Event).where(Event.action.in_(("gate.yes", "gate.no")))).all()
    assert champion is not None
    assert champion.name == other.name
    assert [event.action for event in events] == ["gate.no"]
    assert "meanwhile" in events[0].detail["reasons"][-1]


def test_a_champion_of_another_preprocessing_is_not_compared_with_and_not_replaced_by_itself(
    job_table: Database, labelled: Path, start: Start
) -> None:
    with job_table.write() as session:
        champion = find_champion(session)
        assert champion is not None
        champion.card = champion.card | {"preprocessing": "another/2"}
    finished = train(job_table, start(job_table, replace(CLINICAL, epochs=1), labelled, promote="auto"))
    assert finished.decision is not None
    assert "model-preprocessing-mismatch" in finished.decision.reasons[0]
    assert not finished.promoted
    with job_table.write() as session:
        assert promote(session, finished.winner).name == finished.winner


def test_an_outcome_that_was_cut_off_is_not_gone_on_from(
    job_table: Database, labelled: Path, start: Start
) -> None:
    one = replace(CLINICAL, epochs=1)
    run_id = start(job_table, one, labelled)
    cut = run_folder(run_id) / f"resnet18-{one.seed}" / "outcome.json"
    cut.parent.mkdir(parents=True)
    cut.write_text('{"backbone": "resnet18", "epochs": [{"epo')
    assert len(train(job_table, run_id).outcomes) == 1
    assert json.loads(cut.read_text())["backbone"] == "resnet18"
