"""Training that goes on from a registered model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from db.engine import Database
from db.models.registry import champion, find_model, import_model, promote, registered_card
from db.models.store import WEIGHTS_FILE
from db.tables import Event, TrainingRun
from db.training.runs import reopen_run
from scheduler.cli import main
from training.continued.replay import HalfReplayed, read_former
from training.continued.start import StartUnfit, weights_of
from training.data.classes import CLASSES
from training.data.dataset import read_dataset
from training.data.labelled import find_labelled
from training.fitting.loaders import divide, make_dataloaders
from training.plan import Plan
from training.recipe import RECIPES, Recipe, RecipeName
from training.run import gate
from training.run.lifecycle import train
from training.run.progress import Step
from worker.runtime.weights import unpack_weights

Start = Callable[..., int]

pytestmark = pytest.mark.xdist_group("training")


def open_site(database: Database, start: Start, recipe: Recipe, data: Path, **fields: Any) -> int:
    """Open a run that goes on from the champion."""
    with database.read() as session:
        card = registered_card(champion(session))
    return start(database, recipe, data, start_from=card.model_id, classes=card.classes, **fields)


def weights(database: Database, name: str) -> dict[str, np.ndarray]:
    return unpack_weights((database.models_folder / name / WEIGHTS_FILE).read_bytes())


def test_the_first_layers_stay_as_they_were_and_the_others_learn(
    job_table: Database, start: Start, labelled: Path, recipe: Recipe
) -> None:
    finished = train(job_table, open_site(job_table, start, recipe, labelled))
    with job_table.read() as session:
        before = champion(session).name
        card = registered_card(find_model(session, finished.winner))
    assert card.training["continued_from"] == before
    assert card.training["recipe"]["name"] == "site"  # type: ignore[index,call-overload]
    assert card.classes == ("PNEUMONIA", "NORMAL")
    old, new = weights(job_table, before), weights(job_table, finished.winner)
    for name in old:
        body, _, rest = name.partition(".")
        is_early = body == "0" and int(rest.split(".")[0]) < 6
        # Batch norm's running averages are among them.
        assert np.array_equal(old[name], new[name]) == is_early, name


def test_the_epoch_with_the_lowest_loss_on_other_patients_is_kept(
    job_table: Database, start: Start, labelled: Path, recipe: Recipe
) -> None:
    steps: list[Step] = []
    finished = train(job_table, open_site(job_table, start, recipe, labelled), on_step=steps.append)
    (outcome,) = finished.outcomes
    losses = [one.valid_loss for one in outcome.epochs]
    assert losses[-1] == min(losses)
    # Later epochs, which were worse, are not in the table.
    assert len(losses) <= recipe.epochs


def test_an_interrupted_training_goes_on_to_the_same_network(
    job_table: Database, start: Start, labelled: Path, former: Path, recipe: Recipe
) -> None:
    whole = train(job_table, open_site(job_table, start, recipe, labelled, replay=former))

    def stop(step: Step) -> None:
        if len(step.epochs) == 1:
            raise KeyboardInterrupt

    again = open_site(job_table, start, recipe, labelled, replay=former)
    with pytest.raises(KeyboardInterrupt):
        train(job_table, again, on_step=stop)
    with job_table.write() as session:
        reopen_run(session, again, for_worker=False)
    assert train(job_table, again).winner == whole.winner


def test_held_out_images_choose_no_epoch(labelled: Path, recipe: Recipe) -> None:
    dataset = read_dataset(find_labelled(labelled), CLASSES, recipe)
    sides = divide(dataset, recipe)
    parts = [set(dataset.groups[part]) for part in (sides.training, sides.watched, dataset.held_out)]
    assert all(parts)
    assert len(set.union(*parts)) == sum(map(len, parts)), "a patient is on two sides"
    plain = divide(dataset, RECIPES[RecipeName.CLINICAL])
    assert plain.watched.tolist() == dataset.held_out.tolist()


def test_every_batch_is_half_replayed(labelled: Path, former: Path, recipe: Recipe) -> None:
    dataset = read_dataset(find_labelled(labelled), CLASSES, recipe)
    old = read_dataset(find_labelled(former), CLASSES, recipe)
    sides = divide(dataset, recipe, old)
    loader = HalfReplayed(list(range(len(sides.training) + len(old.training))), bs=4, shuffle=True,
                          own=len(sides.training))  # fmt: skip
    own = [index for index in loader.get_idxs() if index < len(sides.training)]
    assert sorted(own) == [*range(len(sides.training))]
    assert len(loader.get_idxs()) == 2 * len(own) == sides.images
    loaders = make_dataloaders(sides, replace(recipe, augmented=False), torch_cpu())
    assert len(loaders.train) == 2 * len(own) // 4
    assert isinstance(loaders.train, HalfReplayed)
    assert len(loaders.valid.dataset) == len(sides.watched)
    # The order of each pair is fixed, so that any even batch is half and half.
    indices = loaders.train.get_idxs()
    assert all((index < len(own)) == (place % 2 == 0) for place, index in enumerate(indices))


def torch_cpu() -> Any:
    import torch

    return torch.device("cpu")


def test_few_pictures_are_replayed_several_times() -> None:
    loader = HalfReplayed(list(range(12)), bs=4, shuffle=True, own=10)
    replayed = [index for index in loader.get_idxs() if index >= 10]
    assert sorted(replayed) == [10] * 5 + [11] * 5


def test_files_and_patients_of_the_new_site_are_not_replayed(
    labelled: Path, former: Path, recipe: Recipe, tmp_path: Path
) -> None:
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        for file in (former / label).iterdir():
            (tmp_path / label / file.name).write_bytes(file.read_bytes())
    copied = sorted((labelled / "NORMAL").iterdir())[0]
    (tmp_path / "NORMAL" / "copy.png").write_bytes(copied.read_bytes())
    person = sorted((labelled / "PNEUMONIA").iterdir())[0].name.split("_")[0]
    known = tmp_path / "PNEUMONIA" / f"{person}_virus_99.png"
    (tmp_path / "PNEUMONIA" / "old-0.png").rename(known)
    site = read_dataset(find_labelled(labelled), CLASSES, recipe)
    plan = Plan(recipe=recipe, data=labelled, replay=tmp_path)
    found = read_former(plan, site)
    assert found is not None
    assert len(found) == 29
    assert not {"copy.png", known.name} & {image.path.name for image in found.pictures.images}
    assert set(found.held_out) <= set(range(29))
    assert not set(found.groups[found.held_out]) & set(found.groups[found.training])
    assert read_former(plan.model_copy(update={"replay": None}), site) is None


def test_both_sites_are_measured_and_stand_in_gate_report_and_card(
    job_table: Database, start: Start, labelled: Path, former: Path, recipe: Recipe
) -> None:
    finished = train(job_table, open_site(job_table, start, recipe, labelled, replay=former))
    assert finished.decision is not None
    rules = [check.rule for check in finished.decision.checks]
    assert rules.count("former site") == 1
    findings = json.loads((finished.report.parent / "report.json").read_text())
    assert findings["challenge"]["former"]["images"] == 6
    assert set(findings["challenge"]["former"]["measures"]) == {"champion", "challenger"}
    page = finished.report.read_text()
    assert "At the former site" in page
    assert "head alone" not in page
    with job_table.read() as session:
        card = registered_card(find_model(session, finished.winner))
    assert card.training["replayed"] == 24
    assert len(str(card.training["replayed_fingerprint"])) == 64


def test_a_former_site_that_is_forgotten_is_told_at_the_gate(
    job_table: Database, start: Start, labelled: Path, former: Path, recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip

    def predict(runtime: Any, pixels: np.ndarray) -> np.ndarray:
        # The champion knows the former site, where pneumonia is dark. The challenger has lost it.
        bright: np.ndarray = pixels.mean(axis=(1, 2, 3)) / 255
        return bright if "continued_from" in runtime.card.training else 1 - bright

    monkeypatch.setattr(gate, "predict", predict)
    finished = train(job_table, open_site(job_table, start, recipe, labelled, replay=former, promote="auto"))
    assert not finished.promoted
    with job_table.read() as session:
        (event,) = session.scalars(select(Event).where(Event.action == "gate.no")).all()
    assert any("former site" in reason for reason in event.detail["reasons"])


def test_the_command_stores_the_model_that_is_champion_now_with_its_backbone_and_classes(
    job_table: Database, labelled: Path, former: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scheduler.cli.models.training as module

    monkeypatch.setattr(module, "_queue", lambda *_, **__: None)
    arguments = ["retrain", str(labelled), "--from", "champion", "--replay", str(former), "--queue"]
    monkeypatch.setattr("sys.argv", ["pneumoscreen", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    with job_table.read() as session:
        stored = session.scalars(select(TrainingRun)).one().plan
        name = champion(session).name
    plan = Plan.model_validate(stored)
    assert (plan.start_from, plan.backbones, plan.replay) == (name, ("resnet18",), former)
    assert plan.classes == ("PNEUMONIA", "NORMAL")
    assert plan.recipe.name is RecipeName.SITE
    assert plan.recipe.continued


@pytest.mark.parametrize(
    "options", [["--from", "champion", "--recipe", "thesis"], ["--recipe", "site"], ["--replay", "."]]
)
@pytest.mark.usefixtures("job_table")
def test_options_that_do_not_fit_together_are_refused(
    labelled: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    arguments = ["retrain", str(labelled), "--random-weights", "--queue", *options]
    monkeypatch.setattr("sys.argv", ["pneumoscreen", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


def test_weights_to_go_on_from_are_checked(job_table: Database, other_artefact: Path) -> None:
    from db.models.store import ModelDigestMismatch

    other = import_model(job_table, other_artefact)
    file = job_table.models_folder / other.name / WEIGHTS_FILE
    assert weights_of(job_table, other.name).digest == other.weights_digest
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(ModelDigestMismatch):
        weights_of(job_table, other.name)
    with job_table.write() as session:
        model = promote(session, other.name)
        model.card = model.card | {"mean": [0.5, 0.5, 0.5]}
    with pytest.raises(StartUnfit):
        weights_of(job_table, "champion")
