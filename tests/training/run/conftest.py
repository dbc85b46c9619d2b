"""A training run that is shared by all tests that need only its results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from db.engine import Database
from db.models.registry import ensure_champion, import_model
from db.upkeep.migrate import upgrade
from training.recipe import RECIPES, Recipe, RecipeName
from training.run.conclusion import Finished
from training.run.lifecycle import run_folder, train
from training.run.progress import Step

#: The type of the fixture `start`.
Start = Callable[..., int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished run in a data directory of its own."""

    database: Database
    recipe: Recipe
    finished: Finished
    steps: list[Step]
    #: The run's folder.
    folder: Path


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, labelled: Path, artefact: Path, start: Start
) -> Trained:
    """Train ResNet-18 for three epochs by the clinical recipe, with the small model as champion."""
    recipe = replace(RECIPES[RecipeName.CLINICAL], epochs=2, batch_size=8)
    home = tmp_path_factory.mktemp("trained") / "home"
    home.mkdir(mode=0o700)
    steps: list[Step] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNEUMOSCREEN_HOME", str(home))
        patch.delenv("PNEUMOSCREEN_DATABASE_URL", raising=False)
        database = Database()
        upgrade(database)
        ensure_champion(database, artefact)
        run_id = start(database, recipe, labelled, promote="auto")
        finished = train(database, run_id, on_step=steps.append)
        folder = run_folder(run_id)
    return Trained(database=database, recipe=recipe, finished=finished, steps=steps, folder=folder)


@pytest.fixture
def start_trained(job_table: Database, trained: Trained, labelled: Path, start: Start) -> Start:
    """Open a run whose ResNet-18 is trained already, as after a restart, and return its id."""

    def open_one(**fields: object) -> int:
        run_id = start(job_table, trained.recipe, labelled, **fields)
        (outcome,) = trained.finished.outcomes
        trial = f"resnet18-{outcome.seed}"
        shutil.copytree(trained.folder / trial, run_folder(run_id) / trial)
        import_model(job_table, trained.database.models_folder / outcome.model_id)
        return run_id

    return open_one
