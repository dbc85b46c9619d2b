"""The plan of a training run, from the options of `retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from db.engine import Database
    from training.plan import Plan
    from training.recipe import Recipe


def choose_recipe(name: str | None, start: str | None, **changed: float | None) -> Recipe:
    """Return a recipe with what the options change: of `--from` the recipe site, else clinical by default."""
    from dataclasses import replace

    from training.recipe import find_recipe

    chosen = find_recipe(name or ("clinical" if start is None else "site"))
    if chosen.continued != (start is not None):
        raise typer.BadParameter("--from takes the recipe site, and no other takes it", param_hint="--recipe")
    changes: dict[str, Any] = {name: value for name, value in changed.items() if value is not None}
    return replace(chosen, **changes)


def going_on(database: Database, plan: Plan, start: str | None, replay: Path | None) -> Plan:
    """Return a plan with the model that it goes on from: its backbone, its classes, the folder to replay."""
    from scheduler.ingest.source import SourceMissing

    if start is None:
        if replay is not None:
            raise typer.BadParameter("it needs --from", param_hint="--replay")
        return plan
    from training.continued.start import find_start

    if replay is not None and not replay.is_dir():
        raise SourceMissing
    with database.read() as session:
        card = find_start(session, start)
    return plan.model_copy(
        update={
            "start_from": card.model_id,
            "replay": None if replay is None else replay.resolve(),
            "backbones": (card.backbone,),
            "classes": card.classes,
        }
    )


def checked_source(data: Path | None, *, labels: bool) -> Path | None:
    """Return the folder of labelled images, if one is named. Raises SourceMissing."""
    from scheduler.ingest.source import SourceMissing

    if data is None and not labels:
        raise typer.BadParameter("name a folder of labelled images, or use --labels", param_hint="DATA")
    if data is not None and not data.is_dir():
        raise SourceMissing
    return None if data is None else data.resolve()


def missing_weights(backbones: tuple[str, ...], folder: Path | None) -> tuple[str, ...]:
    """Return the backbones whose ImageNet weights are not here."""
    from training.fitting.backbones import InitialWeightsMissing, find_initial_weights

    missing = []
    for backbone in backbones:
        try:
            find_initial_weights(backbone, folder)
        except InitialWeightsMissing:
            missing.append(backbone)
    return tuple(missing)


def check_weights(plan: Plan) -> None:
    """Raise now the errors that would stop the run later."""
    from training.fitting.backbones import find_all_initial_weights

    if plan.start_from is None:
        find_all_initial_weights(plan.backbones, plan.weights, plan.random_weights)
