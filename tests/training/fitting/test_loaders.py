"""Data loaders: training gets the same values as screening."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.dataset import Dataset
from training.data.labelled import LabelledImage
from training.data.patients import Group, ToldBy
from training.data.pictures import PictureSet
from training.fitting.augment import break_shortcuts
from training.fitting.loaders import BreakShortcuts, divide, make_dataloaders
from training.recipe import RECIPES, RecipeName
from worker.runtime.torch.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise

PLAIN = replace(RECIPES[RecipeName.THESIS], batch_size=4)


def dataset(pixels: np.ndarray) -> Dataset:
    count = len(pixels)
    images = [LabelledImage(Path(str(n)), "NORMAL", Group(str(n), ToldBy.NOTHING)) for n in range(count)]
    return Dataset(
        pictures=PictureSet(images, pixels, [str(n) for n in range(count)], [{}] * count, []),
        classes=("NORMAL", "PNEUMONIA"),
        labels=["NORMAL", "PNEUMONIA"] * (count // 2),
        held_out=np.arange(4),
        groups=np.arange(count),
        contradicting=[],
        duplicates=0,
    )


def expected(pixels: np.ndarray) -> torch.Tensor:
    return normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), IMAGENET_MEAN, IMAGENET_STD)


def test_pictures_are_normalised_as_in_screening_to_the_last_bit(random_pixels: np.ndarray) -> None:
    loaders = make_dataloaders(divide(dataset(random_pixels), PLAIN), PLAIN, torch.device("cpu"))
    pictures, targets = loaders.valid.one_batch()
    assert torch.equal(pictures.as_subclass(torch.Tensor), expected(random_pixels[:4]))
    assert targets.tolist() == [0, 1, 0, 1]


def test_the_normalisation_is_fastais_to_the_last_bit(random_pixels: np.ndarray) -> None:
    from fastai.data.transforms import IntToFloatTensor, Normalize
    from fastai.torch_core import TensorImage

    batch = TensorImage(torch.from_numpy(random_pixels).permute(0, 3, 1, 2))
    fastais = Normalize.from_stats(IMAGENET_MEAN, IMAGENET_STD, cuda=False)(IntToFloatTensor()(batch))
    assert torch.equal(fastais.as_subclass(torch.Tensor), expected(random_pixels))


def test_augmentation_sees_pictures_between_0_and_1_of_the_training_side_alone(
    random_pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def observe(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch)
        return break_shortcuts(batch)

    monkeypatch.setattr("training.fitting.loaders.break_shortcuts", observe)
    recipe = replace(PLAIN, augmented=True)
    loaders = make_dataloaders(divide(dataset(random_pixels), recipe), recipe, torch.device("cpu"))
    assert any(isinstance(step, BreakShortcuts) for step in loaders.train.after_batch.fs)
    loaders.valid.one_batch()
    assert seen == []
    loaders.train.one_batch()
    assert 0 <= float(seen[0].min()) < float(seen[0].max()) <= 1
