"""The command `accept`, from labelled images to the job table, the registry and the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

import training.acceptance.measurement as module
from db.engine import Database
from db.models.card import ModelInvalid
from db.models.registry import champion, check_gate, find_model, import_model, promote, registered_card
from db.models.store import CARD_FILE
from db.tables import Acceptance, Event
from db.trust.acceptances import newest_acceptances, standing
from scheduler.cli import main
from training.acceptance.criteria import Criteria, Verdict
from training.acceptance.measurement import accept, read_site
from training.acceptance.tuning import tune
from training.data.splits import TooFewLabelled
from worker.runtime.loading import load_model
from worker.runtime.passes import outputs_of

pytestmark = pytest.mark.xdist_group("training")

#: The type of the fixture `command`.
Command = Callable[..., dict[str, Any]]


@pytest.fixture
def command(
    job_table: Database, labelled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run `accept` on the labelled images, and return what it prints."""

    def run(*options: str, data: Path = labelled, expect: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["pneumoscreen", "accept", str(data), "--json", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == expect
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


def test_an_acceptance_is_recorded_with_who_when_on_what_and_which_model(
    job_table: Database, command: Command, labelled: Path
) -> None:
    found = command("--by", "Dr. Maria Muster")
    assert not found["accepted"]
    assert "too few to say" in found["reasons"][0]
    with job_table.read() as session:
        model = champion(session)
        (stored,) = session.scalars(select(Acceptance)).all()
        (event,) = session.scalars(select(Event).where(Event.action == "model.not-accept")).all()
    assert (stored.model_id, stored.by, stored.images) == (model.id, "Dr. Maria Muster", 24)
    assert stored.data_fingerprint == found["data_fingerprint"]
    assert stored.created_at > 0
    assert event.subject == f"model:{model.id}"
    assert event.detail["by"] == "Dr. Maria Muster"
    assert event.actor != "Dr. Maria Muster"
    assert str(labelled) not in json.dumps([stored.figures, event.detail])
    assert stored.figures["criteria"]["sensitivity"] == 0.9


def test_the_newest_acceptance_of_a_model_counts(
    job_table: Database, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command()
    with job_table.read() as session:
        model = champion(session)
        assert standing(session) == {model.id: "not accepted at this site"}
    monkeypatch.setattr(module, "judge", lambda *_: Verdict(accepted=True, reasons=("it is good",)))
    command()
    with job_table.read() as session:
        assert standing(session) == {model.id: "accepted"}
        assert newest_acceptances(session)[model.id].accepted


def test_an_unreadable_image_is_counted_and_changes_the_exit_code(
    command: Command, labelled: Path, tmp_path: Path
) -> None:
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        for source in sorted((labelled / label).iterdir())[:4]:
            (tmp_path / label / source.name).write_bytes(source.read_bytes())
    (tmp_path / "NORMAL" / "broken.png").write_text("not an image")
    found = command(data=tmp_path, expect=1)
    assert (found["figures"]["n"], found["unreadable"]) == (8, 1)


def test_tuning_makes_a_version_of_the_same_weights_with_an_id_of_its_own(
    job_table: Database, command: Command, labelled: Path
) -> None:
    with job_table.read() as session:
        before = champion(session)
    found = command("--tune")["tuned"]
    with job_table.read() as session:
        tuned = find_model(session, found["model"])
        assert champion(session).id == before.id
        assert {one.model_id for one in session.scalars(select(Acceptance))} == {before.id, tuned.id}
    assert tuned.name.startswith(f"{before.name}-")
    assert tuned.weights_digest == before.weights_digest
    card = registered_card(tuned)
    assert (card.temperature, card.threshold) == (found["temperature"], found["threshold"])
    assert card.training["tuned"]["from"] == before.name  # type: ignore[index,call-overload]
    assert card.training["tuned"]["images"] == 24  # type: ignore[index,call-overload]
    assert card.classes == registered_card(before).classes
    # The version that screens answers with that temperature.
    runtime = load_model(job_table.models_folder / tuned.name, card=card)
    own = load_model(job_table.models_folder / before.name)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    rows = [(outputs_of(one, pixels).probabilities, one.card) for one in (runtime, own)]
    odds = [np.diff(np.log(row)) * card.temperature for row, card in rows]
    assert np.abs(odds[0] - odds[1]).max() < 1e-3
    # The same images give the same version.
    assert command("--tune", "--model", before.name)["tuned"]["model"] == tuned.name
    # The gate has compared it, so that a person can promote it if it said yes.
    assert found["gate"] is not None


def test_a_tuned_version_can_be_champion_and_is_tuned_again_from_there(
    job_table: Database, command: Command
) -> None:
    first = command("--tune")["tuned"]["model"]
    with job_table.write() as session:
        promote(session, first)
    again = command("--tune", "--target", "0.8")["tuned"]["model"]
    assert again.count("-") == 2
    assert again != first
    assert again.rsplit("-", 1)[0] == first.rsplit("-", 1)[0]


def test_a_tuned_id_with_another_threshold_is_refused(
    job_table: Database, command: Command, tmp_path: Path
) -> None:
    name = command("--tune")["tuned"]["model"]
    folder = tmp_path / name
    folder.mkdir()
    for file in (job_table.models_folder / name).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card | {"threshold": 0.123}))
    with pytest.raises(ModelInvalid):
        import_model(job_table, folder)


def test_what_a_tuned_version_measures_is_cross_fitted(
    job_table: Database, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with job_table.read() as session:
        model = champion(session)
    site = read_site(job_table, model, labelled, types=True)
    tuned = tune(job_table, site, target_sensitivity=0.97, promote="ask")
    assert isinstance(tuned.answers.threshold, np.ndarray)
    assert len(np.unique(tuned.answers.threshold)) > 1
    found = accept(job_table, site, tuned.answers, criteria=Criteria())
    sensitivity = (tuned.answers.called == site.images.positive)[site.images.positive].mean()
    assert found.figures.sensitivity.value == pytest.approx(sensitivity)


def test_a_version_that_passes_the_gate_is_promoted_if_that_was_asked_for(
    job_table: Database, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    import training.run.gate as module

    real = module.decide
    monkeypatch.setattr(module, "decide", lambda *a, **k: replace(real(*a, **k), passed=True))
    asked = command("--tune")["tuned"]
    assert not asked["promoted"]
    with job_table.read() as session:
        check_gate(session, find_model(session, asked["model"]))
    done = command("--tune", "--promote", "auto")["tuned"]
    assert done["promoted"]
    with job_table.read() as session:
        assert champion(session).name == done["model"]


def test_one_patient_in_a_class_is_too_few_to_tune(
    job_table: Database, labelled: Path, tmp_path: Path
) -> None:
    for label, patient in (("NORMAL", ""), ("PNEUMONIA", "one")):
        (tmp_path / label / patient).mkdir(parents=True)
        for source in sorted((labelled / label).iterdir())[:4]:
            (tmp_path / label / patient / source.name.split("_", 1)[-1]).write_bytes(source.read_bytes())
    with job_table.read() as session:
        site = read_site(job_table, champion(session), tmp_path, types=True)
    with pytest.raises(TooFewLabelled):
        tune(job_table, site, target_sensitivity=0.97, promote="ask")
