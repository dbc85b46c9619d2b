"""What a training run is to do, as it stands in the job table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from db.errors import PneumoscreenError
from training.data.dataset import CLASSES
from training.fitting.backbones import BACKBONES
from training.recipe import Recipe, RecipeName


class RecipeFields(BaseModel):
    """A recipe's fields as JSON; `training.recipe.Recipe` says what each means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: RecipeName
    epochs: int
    batch_size: int
    grouped: bool
    augmented: bool
    balanced: bool
    label_smoothing: float
    target_sensitivity: float | None
    weight_decay: float
    seed: int
    seeds: int


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

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: RecipeFields
    #: A folder with labelled images; None takes the job table's labels alone.
    data: Path | None
    #: Whether the job table's labels count too.
    use_labels: bool = False
    classes: tuple[str, ...] = CLASSES
    backbones: tuple[str, ...] = BACKBONES
    #: Folder of initial weights; None looks in torchvision's cache.
    weights: Path | None = None
    #: Backbones that start from random weights, because it was asked for.
    random_weights: tuple[str, ...] = ()
    #: Whether the gate's yes makes the winner champion, or a person does.
    promote: Promote = "ask"

    def make_recipe(self) -> Recipe:
        """Return the recipe."""
        return Recipe(**self.recipe.model_dump())

    @classmethod
    def fields_of(cls, recipe: Recipe) -> RecipeFields:
        """Return a recipe's fields."""
        return RecipeFields(**asdict(recipe))
