"""Recipes: every choice that decides how a backbone is trained, except the data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from db.errors import PneumoscreenError

#: The backbones that the thesis compares, by torchvision's names.
BACKBONES = ("resnet18", "resnet34", "resnet50", "alexnet")


class RecipeUnknown(PneumoscreenError):
    """There is no such recipe. Choose thesis, clinical or, with --from, site."""

    code = "recipe-unknown"


class RecipeName(StrEnum):
    """The recipes by name."""

    #: The thesis' protocol as its notebooks ran it.
    THESIS = "thesis"
    #: Ours, for a hospital that the model has not seen.
    CLINICAL = "clinical"
    #: Ours, for a trained model that goes on learning from the few labels of a site.
    SITE = "site"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to train; each uses fastai's `fine_tune`, or its second phase for a trained model."""

    name: RecipeName
    #: Epochs with the whole network unfrozen, after one epoch with the head alone.
    epochs: int
    batch_size: int
    #: Patients and duplicates stay on one side of the split; otherwise images at random, as in the thesis.
    grouped: bool
    #: Augmentation that breaks shortcuts (`training.fitting.augment`).
    augmented: bool
    #: Rare classes weigh as much as common ones.
    balanced: bool
    label_smoothing: float
    #: The threshold reaches this sensitivity on validation data; None keeps 0.5, as in the thesis.
    target_sensitivity: float | None
    #: The training goes on from a trained model: all its layers but the first ones learn from the start, and
    #: the epoch that is best for other patients is kept. Otherwise the head begins alone.
    continued: bool = False
    #: The thesis' text says 0.1, but its code passed it to an argument that fastai ignores: it was 0.01.
    weight_decay: float = 0.01
    #: Each backbone is trained with `seeds` seeds, from this one on; the split always uses this one.
    seed: int = 42
    seeds: int = 1


RECIPES = {
    RecipeName.THESIS: Recipe(
        name=RecipeName.THESIS,
        epochs=20,
        batch_size=20,
        grouped=False,
        augmented=False,
        balanced=False,
        label_smoothing=0.0,
        target_sensitivity=None,
    ),
    RecipeName.CLINICAL: Recipe(
        name=RecipeName.CLINICAL,
        epochs=5,
        batch_size=32,
        grouped=True,
        augmented=True,
        balanced=True,
        # With hard targets the network separates its training set by shortcuts with full confidence.
        label_smoothing=0.1,
        # In another hospital specificity falls first: see docs/training.md.
        target_sensitivity=0.97,
    ),
    RecipeName.SITE: Recipe(
        name=RecipeName.SITE,
        # Few labels make short epochs; the best one is kept.
        epochs=10,
        # Half of them replayed, if there are pictures to replay. A site may have no more than a hundred.
        batch_size=16,
        grouped=True,
        augmented=True,
        balanced=True,
        label_smoothing=0.1,
        target_sensitivity=0.97,
        continued=True,
    ),
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name. Raises RecipeUnknown."""
    try:
        return RECIPES[RecipeName(name)]
    except ValueError:
        raise RecipeUnknown(name) from None
