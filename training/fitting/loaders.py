"""fastai's data loaders over pictures in memory."""

from __future__ import annotations

from typing import Any

import torch

from training.data.dataset import Dataset
from training.fitting.augment import break_shortcuts
from training.recipe import Recipe
from worker.runtime.torch.normalisation import IMAGENET_MEAN, IMAGENET_STD, standardise, to_unit_range
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import (  # noqa: E402  (needs torchvision to be importable)
    CategoryBlock,
    DataBlock,
    DataLoaders,
    IndexSplitter,
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


def make_dataloaders(dataset: Dataset, recipe: Recipe, device: torch.device) -> DataLoaders:
    """Return loaders over pictures, normalised as in screening with ImageNet's statistics."""
    pixels, labels = dataset.pictures.pixels, dataset.labels

    def picture(index: int) -> TensorImage:
        return TensorImage(torch.from_numpy(pixels[index]).permute(2, 0, 1))

    def label(index: int) -> str:
        return labels[index]

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
        splitter=IndexSplitter(dataset.held_out),
        batch_tfms=transforms,
    )
    # Pictures are in memory: worker processes would copy them and compete for the same cores.
    return block.dataloaders(range(len(dataset)), bs=recipe.batch_size, num_workers=0, device=device)
