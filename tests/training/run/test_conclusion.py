"""The conclusion of a run: the comparison with the champion, and promotion."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

import training.run.conclusion as module
from db.engine import Database
from db.models.registry import find_champion, find_model, import_model, promote
from db.models.store import CARD_FILE
from db.states import ModelState
from db.tables import Event
from training.evaluation.promotion import Decision
from training.outcome import Answers, HeldOut
from training.run.lifecycle import train
from worker.runtime.classes import positive_probability
from worker.runtime.loading import load_model
from worker.runtime.passes import probabilities_of

#: The type of the fixture `start_trained`.
Start = Callable[..., int]

pytestmark = pytest.mark.xdist_group("training")


def test_a_champion_is_not_replaced_unless_promotion_was_asked_for(
    job_table: Database, start_trained: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.decide

    def passes(*arguments: object) -> Decision:
        return replace(real(*arguments), passed=True)  # type: ignore[arg-type]

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

    def observe(challenger: Answers, champion: Answers, held_out: HeldOut) -> Decision:
        asked.append((champion, held_out))
        return real(challenger, champion, held_out)

    monkeypatch.setattr(module, "decide", observe)
    train(job_table, start_trained())
    ((champion, held_out),) = asked
    runtime = load_model(artefact)
    expected = positive_probability(runtime.card, probabilities_of(runtime, held_out.pixels))
    assert np.abs(champion.probability - expected).max() == 0


def test_a_champion_that_was_promoted_during_the_comparison_stays(
    job_table: Database, start_trained: Start, other_artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, real = import_model(job_table, other_artefact), module.decide

    def overtaken(challenger: Answers, champion: Answers, held_out: HeldOut) -> Decision:
        with job_table.write() as session:
            promote(session, other.name)
        return replace(real(challenger, champion, held_out), passed=True)

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


def test_a_winner_that_passes_becomes_champion_if_promotion_was_asked_for(
    job_table: Database, start_trained: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.decide
    monkeypatch.setattr(module, "decide", lambda *arguments: replace(real(*arguments), passed=True))
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
