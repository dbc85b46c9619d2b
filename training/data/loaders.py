"""fastai's loaders over pictures in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from training.data.augment import break_shortcuts
from training.fitting.backbones import IMAGENET_MEAN, IMAGENET_STD
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

if TYPE_CHECKING:
    from training.data.prepare import Prepared
    from training.recipe import Recipe


class BreakShortcuts(RandTransform):  # type: ignore[misc]
    """`training.data.augment` as a fastai batch transform, for the training side alone."""

    #: After `IntToFloatTensor` (10), before `Normalize` (99).
    order = 20
    split_idx = 0

    def encodes(self, batch: TensorImage) -> TensorImage:
        """Augment float32 pictures (N, 3, H, W) in [0, 1]."""
        return TensorImage(break_shortcuts(torch.Tensor(batch)))


def make_dataloaders(prepared: Prepared, recipe: Recipe, device: torch.device) -> DataLoaders:
    """Return loaders over pictures, normalised with ImageNet's statistics."""
    pictures = prepared.pictures

    def picture(index: int) -> Any:
        return PILImage.create(pictures.pixels[index])

    def label(index: int) -> str:
        return pictures.images[index].label

    transforms: list[Any] = [Normalize.from_stats(IMAGENET_MEAN, IMAGENET_STD)]
    if recipe.augmented:
        transforms.append(BreakShortcuts())
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(prepared.classes), sort=False)),
        get_x=picture,
        get_y=label,
        splitter=IndexSplitter(prepared.held_out),
        batch_tfms=transforms,
    )
    # Pictures are in memory: worker processes would copy them and fight for the same cores.
    return block.dataloaders(range(len(pictures)), bs=recipe.batch_size, num_workers=0, device=device)
