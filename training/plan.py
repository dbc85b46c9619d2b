"""The plan of a training run, as the job table stores it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from db.errors import PneumoscreenError
from training.data.classes import CLASSES
from training.recipe import BACKBONES, Recipe


class PromoteUnknown(PneumoscreenError):
    """There is no such way to promote a model. Choose auto or ask."""

    code = "promote-unknown"


Promote = Literal["auto", "ask"]


def check_promote(name: str) -> Promote:
    """Return a way to promote. Raises PromoteUnknown."""
    if name not in ("auto", "ask"):
        raise PromoteUnknown(name)
    return name  # type: ignore[return-value]


class Plan(BaseModel):
    """A training run."""

    # This holds for the recipe's fields too.
    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe
    #: A folder with labelled images; None uses the job table's labels alone.
    data: Path | None
    #: Whether the job table's labels count too.
    use_labels: bool = False
    classes: tuple[str, ...] = CLASSES
    backbones: tuple[str, ...] = BACKBONES
    #: The id of a registered model that the training goes on from; None starts from ImageNet weights.
    start_from: str | None = None
    #: A folder with labelled images of the site that this model learned from, which are replayed.
    replay: Path | None = None
    #: Folder of initial weights; None uses torchvision's cache.
    weights: Path | None = None
    #: Backbones that start from random weights, because the user asked for it.
    random_weights: tuple[str, ...] = ()
    #: Whether a winner that passes the comparison becomes champion at once, or a person decides.
    promote: Promote = "ask"
    #: Whether the report names files, which may hold patient data.
    names: bool = False
