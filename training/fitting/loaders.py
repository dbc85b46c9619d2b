"""fastai's data loaders over pictures in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.continued.replay import HalfReplayed
from training.data.dataset import Dataset
from training.data.splits import grouped_split
from training.fitting.augment import break_shortcuts
from training.recipe import Recipe
from worker.runtime.torch.normalisation import IMAGENET_MEAN, IMAGENET_STD, standardise, to_unit_range
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import (  # noqa: E402  (needs torchvision to be importable)
    CategoryBlock,
    DataBlock,
    DataLoaders,
    RandTransform,
    TensorImage,
    Transform,
    TransformBlock,
)


class UnitRange(Transform):  # type: ignore[misc]
    """The first step of the runtime's normalisation, in place of fastai's `IntToFloatTensor`."""

    order = 10

    def encodes(self, batch: TensorImage) -> TensorImage:
        """Return uint8 pictures (N, 3, H, W) as float32 in [0, 1]."""
        return TensorImage(to_unit_range(batch.as_subclass(torch.Tensor)))


class BreakShortcuts(RandTransform):  # type: ignore[misc]
    """`training.fitting.augment` as a fastai batch transform, for the training side alone."""

    #: After `UnitRange`, before `Standardise`.
    order = 20
    split_idx = 0

    def encodes(self, batch: TensorImage) -> TensorImage:
        """Augment float32 pictures (N, 3, H, W) in [0, 1]."""
        return TensorImage(break_shortcuts(torch.Tensor(batch)))


class Standardise(Transform):  # type: ignore[misc]
    """The second step of the runtime's normalisation, in place of fastai's `Normalize`."""

    order = 99

    def encodes(self, batch: TensorImage) -> TensorImage:
        """Subtract ImageNet's mean and divide by its standard deviation."""
        pictures = batch.as_subclass(torch.Tensor)
        return TensorImage(standardise(pictures, IMAGENET_MEAN, IMAGENET_STD))


@dataclass(frozen=True, slots=True)
class Sides:
    """The pictures that a network learns from, and those whose loss is watched."""

    dataset: Dataset
    #: Indices into the dataset, int64.
    training: NDArray[np.int64]
    watched: NDArray[np.int64]
    #: The former site, of which the training side is replayed.
    former: Dataset | None = None

    @property
    def images(self) -> int:
        """How many pictures an epoch shows."""
        return len(self.training) * (1 if self.former is None else 2)

    def shares(self) -> NDArray[np.float64]:
        """Return the share of each class among the pictures that an epoch shows: float64, (classes,)."""
        parts = [self.dataset.targets[self.training]]
        if self.former is not None:
            parts.append(self.former.targets[self.former.training])
        classes = len(self.dataset.classes)
        counts = np.array([np.bincount(part, minlength=classes) / len(part) for part in parts])
        shares: NDArray[np.float64] = counts.mean(axis=0)
        return shares


def divide(dataset: Dataset, recipe: Recipe, former: Dataset | None = None) -> Sides:
    """Return the sides of a training. The loss of the held-out images is watched.

    If an epoch is chosen by that loss, a fifth of the training patients is watched instead, so that the
    held-out images choose nothing. Raises TooFewLabelled.
    """
    training = dataset.training
    if not recipe.continued:
        return Sides(dataset, training, dataset.held_out, former)
    labels = [dataset.labels[index] for index in training]
    inner = grouped_split(labels, dataset.groups[training], seed=recipe.seed)
    return Sides(dataset, np.delete(training, inner), training[inner], former)


def make_dataloaders(sides: Sides, recipe: Recipe, device: torch.device) -> DataLoaders:
    """Return loaders over pictures, normalised as in screening with ImageNet's statistics."""
    dataset, former = sides.dataset, sides.former
    own = len(dataset)

    def of(index: int) -> tuple[Dataset, int]:
        return (dataset, index) if former is None or index < own else (former, index - own)

    def picture(index: int) -> TensorImage:
        where, place = of(index)
        return TensorImage(torch.from_numpy(where.pictures.pixels[place]).permute(2, 0, 1))

    def label(index: int) -> str:
        where, place = of(index)
        return where.labels[place]

    replayed = [] if former is None else [own + int(index) for index in former.training]
    training = [int(index) for index in sides.training] + replayed
    watched = [int(index) for index in sides.watched]
    mixed: dict[str, Any] = {}
    if former is not None:
        mixed = {"dl_type": HalfReplayed, "dl_kwargs": [{"own": len(sides.training)}, {}]}

    transforms: list[Any] = [UnitRange(), Standardise()]
    if recipe.augmented:
        transforms.append(BreakShortcuts())
    block = DataBlock(
        blocks=(
            TransformBlock(),
            CategoryBlock(vocab=list(dataset.classes), sort=False),
        ),
        get_x=picture,
        get_y=label,
        splitter=lambda _: (training, watched),
        batch_tfms=transforms,
    )
    # Pictures are in memory: worker processes would copy them and compete for the same cores.
    items = range(own + (0 if former is None else len(former)))
    return block.dataloaders(items, bs=recipe.batch_size, num_workers=0, device=device, **mixed)
