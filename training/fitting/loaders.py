"""fastai's data loaders over pictures in memory."""

from __future__ import annotations

from typing import Any

import torch

from training.data.dataset import Dataset
from training.fitting.augment import break_shortcuts
from training.fitting.backbones import IMAGENET_MEAN, IMAGENET_STD
from training.recipe import Recipe
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import (  # noqa: E402  (needs torchvision to be importable)
    CategoryBlock,
    DataBlock,
    DataLoaders,
    ImageBlock,
    IndexSplitter,
    Normalize,
    PILImage,
    RandTransform,
    TensorImage,
)


class BreakShortcuts(RandTransform):  # type: ignore[misc]
    """`training.fitting.augment` as a fastai batch transform, for the training side alone."""

    #: After `IntToFloatTensor` (10), before `Normalize` (99).
    order = 20
    split_idx = 0

    def encodes(self, batch: TensorImage) -> TensorImage:
        """Augment float32 pictures (N, 3, H, W) in [0, 1]."""
        return TensorImage(break_shortcuts(torch.Tensor(batch)))


def make_dataloaders(dataset: Dataset, recipe: Recipe, device: torch.device) -> DataLoaders:
    """Return loaders over pictures, normalised with ImageNet's statistics."""
    pixels, labels = dataset.pictures.pixels, dataset.labels

    def picture(index: int) -> Any:
        return PILImage.create(pixels[index])

    def label(index: int) -> str:
        return labels[index]

    transforms: list[Any] = [Normalize.from_stats(IMAGENET_MEAN, IMAGENET_STD)]
    if recipe.augmented:
        transforms.append(BreakShortcuts())
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(dataset.classes), sort=False)),
        get_x=picture,
        get_y=label,
        splitter=IndexSplitter(dataset.held_out),
        batch_tfms=transforms,
    )
    # Pictures are in memory: worker processes would copy them and compete for the same cores.
    return block.dataloaders(range(len(dataset)), bs=recipe.batch_size, num_workers=0, device=device)
