"""The conclusion of a run: the comparison with the champion, and promotion."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

import training.run.gate as module
from db.engine import Database
from db.models.registry import find_champion, find_model, import_model, promote
from db.models.store import CARD_FILE
from db.states import ModelState
from db.tables import Event
from db.training.runs import all_runs
from training.evaluation.promotion import Decision
from training.outcome import Answers, HeldOut
from training.run import conclusion
from training.run.lifecycle import train
from worker.runtime.classes import positive_probability
from worker.runtime.loading import load_model
from worker.runtime.passes import outputs_of

#: The type of the fixture `start_trained`.
Start = Callable[..., int]

pytestmark = pytest.mark.xdist_group("training")


def test_a_champion_is_not_replaced_unless_promotion_was_asked_for(
    job_table: Database, start_trained: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.decide

    def passes(*arguments: Any, **named: Any) -> Decision:
        return replace(real(*arguments, **named), passed=True)

    monkeypatch.setattr(module, "decide", passes)
    finished = train(job_table, start_trained())
    assert not finished.promoted
    with job_table.read() as session:
        assert find_model(session, finished.winner).state is ModelState.CANDIDATE


def test_a_card_that_is_swapped_after_import_decides_no_promotion(
    job_table: Database, start_trained: Start, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = job_table.models_folder / artefact.name / CARD_FILE
    content = json.loads(card.read_text())
    card.write_text(json.dumps(content | {"classes": content["classes"][::-1]}))
    real, asked = module.decide, []

    def observe(challenger: Answers, champion: Answers, held_out: HeldOut, **named: Any) -> Decision:
        asked.append((champion, held_out))
        return real(challenger, champion, held_out, **named)

    monkeypatch.setattr(module, "decide", observe)
    train(job_table, start_trained())
    ((champion, held_out),) = asked
    runtime = load_model(artefact)
    expected = positive_probability(runtime.card, outputs_of(runtime, held_out.pixels).probabilities)
    assert np.abs(champion.probability - expected).max() == 0


def test_a_champion_that_was_promoted_during_the_comparison_stays(
    job_table: Database, start_trained: Start, other_artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, real = import_model(job_table, other_artefact), module.decide

    def overtaken(challenger: Answers, champion: Answers, held_out: HeldOut, **named: Any) -> Decision:
        with job_table.write() as session:
            promote(session, other.name)
        return replace(real(challenger, champion, held_out, **named), passed=True)

    monkeypatch.setattr(module, "decide", overtaken)
    finished = train(job_table, start_trained(promote="auto"))
    assert not finished.promoted
    with job_table.read() as session:
        champion = find_champion(session)
        events = session.scalars(select(Event).where(Event.action.in_(("gate.yes", "gate.no")))).all()
    assert champion is not None
    assert champion.name == other.name
    assert [event.action for event in events] == ["gate.no"]
    assert "meanwhile" in events[0].detail["reasons"][-1]
    assert "another model became champion meanwhile" in finished.report.read_text()


def test_a_winner_that_passes_becomes_champion_if_promotion_was_asked_for(
    job_table: Database, start_trained: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.decide
    monkeypatch.setattr(module, "decide", lambda *a, **k: replace(real(*a, **k), passed=True))
    finished = train(job_table, start_trained(promote="auto"))
    assert finished.promoted
    with job_table.read() as session:
        champion = find_champion(session)
    assert champion is not None
    assert champion.name == finished.winner


def test_a_champion_of_another_preprocessing_is_neither_compared_nor_replaced_automatically(
    job_table: Database, start_trained: Start
) -> None:
    with job_table.write() as session:
        champion = find_champion(session)
        assert champion is not None
        champion.card = champion.card | {"preprocessing": "another/2"}
    finished = train(job_table, start_trained(promote="auto"))
    assert finished.decision is not None
    assert "model-preprocessing-mismatch" in finished.decision.reasons[0]
    assert not finished.promoted
    with job_table.write() as session:
        assert promote(session, finished.winner).name == finished.winner


def test_a_winner_that_cannot_tell_what_is_unfamiliar_does_not_replace_a_champion_that_can(
    job_table: Database, start_trained: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.decide
    monkeypatch.setattr(module, "decide", lambda *a, **k: replace(real(*a, **k), passed=True, checks=()))
    with job_table.write() as session:
        champion = find_champion(session)
        assert champion is not None
        known = {"digest": "0" * 64, "images": 1500, "held_out": 1000}
        champion.card = champion.card | {"familiarity": known}
    finished = train(job_table, start_trained(promote="auto"))
    assert finished.decision is not None
    assert not finished.promoted
    (reason,) = finished.decision.reasons
    assert "unfamiliar" in reason


def test_table_sentence_gate_and_report_name_one_winner_and_show_its_auc(
    trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from scheduler.cli.models.training import _print_finished

    finished = trained.finished
    (outcome,) = finished.outcomes
    findings = json.loads((finished.report.parent / "report.json").read_text())
    (backbone,) = findings["backbones"]
    assert finished.winner == outcome.model_id == backbone["model"] == findings["challenge"]["challenger"]
    assert findings["choice"]["winner"] == backbone["name"]
    assert finished.aucs[0] == pytest.approx(backbone["measures"]["AUC"]["value"])
    capsys.readouterr()
    _print_finished(finished)
    out = " ".join(capsys.readouterr().out.split())
    assert "accuracy AUC model" in out
    assert f"{finished.aucs[0]:.4f}" in out
    assert "resnet18 is the only backbone that was trained." in out
    assert " ".join(finished.choice[1].split()) in out


def test_the_list_of_runs_shows_the_winner_and_its_auc(
    trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from scheduler.cli.models.runs import print_runs

    finished = trained.finished
    with trained.database.read() as session:
        found = all_runs(session)
    (progress,) = (run.progress for run in found)
    assert (progress["winner"], progress["auc"]) == (finished.winner, finished.aucs[0])
    assert progress["epoch"] == finished.outcomes[0].epochs[-1].epoch
    capsys.readouterr()
    print_runs(found)
    head, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert dict(zip(head, row, strict=False))["AUC"] == f"{finished.aucs[0]:.4f}"
    assert dict(zip(head, row, strict=False))["backbone"] == "resnet18"


def test_the_gate_judges_the_challenger_by_the_answers_that_the_report_measures(
    job_table: Database, start_trained: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = module.decide, []

    def observe(challenger: Answers, champion: Answers, held_out: HeldOut, **named: Any) -> Decision:
        asked.append((challenger, held_out))
        return real(challenger, champion, held_out, **named)

    monkeypatch.setattr(module, "decide", observe)
    finished = train(job_table, start_trained())
    ((challenger, held_out),) = asked
    findings = json.loads((finished.report.parent / "report.json").read_text())
    measured = findings["challenge"]["measures"]["challenger"]
    assert measured["accuracy"]["value"] == pytest.approx((challenger.called == held_out.positive).mean())
    assert measured == findings["backbones"][0]["measures"]
    assert findings["folds"] > 1, "the threshold was fitted on the images that decide"


def test_the_report_names_files_only_if_it_is_asked_to(
    job_table: Database, start_trained: Start, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = conclusion.build_report, []

    def observe(comparison: Any, *others: object) -> Any:
        seen.append(comparison.held_out.names)
        return real(comparison, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(conclusion, "build_report", observe)
    train(job_table, start_trained())
    train(job_table, start_trained(names=True))
    unnamed, named = seen
    assert unnamed == ()
    assert named
    assert all((labelled / name).is_file() for name in named)
