"""Training one backbone by one recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.backbones import IMAGENET_MEAN, IMAGENET_STD, pretrained_network
from training.dataset import CLASSES
from worker.learner import best_device
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import (  # noqa: E402  (needs torchvision to be importable)
    Callback,
    CategoryBlock,
    ChannelsLast,
    CrossEntropyLossFlat,
    DataBlock,
    DataLoaders,
    ImageBlock,
    IndexSplitter,
    LabelSmoothingCrossEntropyFlat,
    Learner,
    Normalize,
    PILImage,
    RandomErasing,
    accuracy,
    aug_transforms,
    model_meta,
    set_seed,
)
from torchvision import models  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from training.pictures import PictureSet
    from training.recipe import Recipe


class Autocast(Callback):  # type: ignore[misc]
    """bfloat16 forward passes on any device; fastai's own callback knows CUDA alone."""

    #: As early as fastai's own MixedPrecision.
    order = 10

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.region = torch.autocast(device.type, dtype=torch.bfloat16)

    def before_batch(self) -> None:
        """Enter the region for the forward pass."""
        self.region.__enter__()

    def after_pred(self) -> None:
        """Leave it: the loss is computed in single precision."""
        self.region.__exit__(None, None, None)
        self.learn.pred = self.learn.pred.float()


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One line of the thesis' tables; `epoch` 0 is the frozen one."""

    epoch: int
    train_loss: float
    valid_loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network and what it says of the images that were held out."""

    network: nn.Module
    epochs: list[EpochResult]
    #: float32 (N, classes), before the softmax, in the order of the held-out indices.
    held_out_logits: NDArray[np.float32]


class _History(Callback):  # type: ignore[misc]
    """Collects the epochs of both of `fine_tune`'s phases."""

    #: After fastai's Recorder (50), which computes the values.
    order = 60

    def __init__(self, on_epoch: Callable[[EpochResult], None]) -> None:
        super().__init__()
        self.results: list[EpochResult] = []
        self.on_epoch = on_epoch

    def after_epoch(self) -> None:
        """Keep what the recorder has just written."""
        train_loss, valid_loss, score = (float(value) for value in self.learn.recorder.values[-1])
        self.results.append(EpochResult(len(self.results), train_loss, valid_loss, score))
        self.on_epoch(self.results[-1])


def make_dataloaders(
    pictures: PictureSet, held_out: NDArray[np.int64], recipe: Recipe, device: torch.device
) -> DataLoaders:
    """Return fastai's loaders over pictures in memory, normalised with ImageNet's statistics."""

    def picture(index: int) -> Any:
        return PILImage.create(pictures.pixels[index])

    def label(index: int) -> str:
        return pictures.images[index].label

    transforms = [Normalize.from_stats(IMAGENET_MEAN, IMAGENET_STD)]
    if recipe.augmented:
        transforms = [
            *aug_transforms(max_rotate=12.0, max_zoom=1.25, max_lighting=0.5, max_warp=0.1),
            *transforms,
            RandomErasing(p=0.5, max_count=2),
        ]
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=CLASSES)),
        get_x=picture,
        get_y=label,
        splitter=IndexSplitter(held_out),
        batch_tfms=transforms,
    )
    # Pictures are in memory: worker processes would copy them and fight for the same cores.
    return block.dataloaders(range(len(pictures.images)), bs=recipe.batch_size, num_workers=0, device=device)


def fit_backbone(
    backbone: str,
    pictures: PictureSet,
    held_out: NDArray[np.int64],
    recipe: Recipe,
    initial_weights: Path,
    on_epoch: Callable[[EpochResult], None] = lambda _: None,
) -> Fitted:
    """Train one backbone with fastai's `fine_tune` and predict the held-out images.

    `held_out` are indices into `pictures`. The same seed, data and machine give the same network.
    """
    device = best_device()
    set_seed(recipe.seed, reproducible=True)
    network = pretrained_network(backbone, len(CLASSES), initial_weights)
    history = _History(on_epoch)
    learner = Learner(
        make_dataloaders(pictures, held_out, recipe, device),
        network,
        loss_func=_loss(recipe),
        splitter=model_meta[getattr(models, backbone)]["split"],
        metrics=[accuracy],
        cbs=[ChannelsLast(), Autocast(device), history],
    )
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(recipe.epochs)
    return Fitted(network, history.results, _logits(network, pictures.pixels[held_out], device))


def _loss(recipe: Recipe) -> Any:
    if recipe.label_smoothing:
        return LabelSmoothingCrossEntropyFlat(eps=recipe.label_smoothing)
    return CrossEntropyLossFlat()


@torch.inference_mode()
def _logits(network: nn.Module, pixels: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """Return the logits of pictures in single precision, as screening computes them."""
    network.eval()
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)
    parts = []
    for start in range(0, len(pixels), 64):
        batch = torch.from_numpy(pixels[start : start + 64]).to(device).permute(0, 3, 1, 2)
        parts.append(network((batch.float().div_(255.0) - mean) / std).float().cpu())
    return torch.cat(parts).numpy()


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the negative log-likelihood (Guo et al. 2017, section 4.2)."""
    from scipy.optimize import minimize_scalar

    scores, truth = torch.from_numpy(logits), torch.from_numpy(targets)

    def loss(log_temperature: float) -> float:
        scaled = scores / math.exp(log_temperature)
        return float(torch.nn.functional.cross_entropy(scaled, truth))

    # A temperature outside 0.05 to 20 says that the validation data cannot settle it.
    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return math.exp(float(best.x))
