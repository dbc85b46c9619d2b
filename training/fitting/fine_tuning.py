"""Fine-tuning of one backbone by one recipe, resumable after each epoch."""

from __future__ import annotations

import resource
import shutil
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from db.errors import PneumoscreenError
from training.continued.best_epoch import BestEpoch
from training.fitting.backbones import InitialWeights, initial_network
from training.fitting.callbacks import Autocast, Epochs, OnProgress
from training.fitting.checkpoint import read_checkpoint
from training.fitting.layout import blocked, is_blocked
from training.fitting.loaders import Sides, make_dataloaders
from training.outcome import EpochResult
from training.recipe import Recipe
from worker.runtime.protocol import Precision
from worker.runtime.torch.device import best_device, native_bf16
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.callback.training import BnFreeze  # noqa: E402  (needs torchvision to be importable)
from fastai.vision.all import (  # noqa: E402
    ChannelsLast,
    CrossEntropyLossFlat,
    LabelSmoothingCrossEntropyFlat,
    Learner,
    accuracy,
    model_meta,
    set_seed,
)
from torchvision import models  # noqa: E402  (after it)

#: The defaults of `fine_tune` (fastai 2.8, `callback/schedule.py`).
_BASE_RATE, _RATIO, _DIV = 2e-3, 100, 5.0
#: The rate of the head of a trained network, a third of that of a new one, and by how much that of the first
#: layers would be lower.
_SITE_RATE, _SITE_RATIO = 3e-4, 10


class TooFewForBatch(PneumoscreenError):
    """The training side has fewer images than one batch. Label more, or choose a smaller batch."""

    code = "too-few-for-batch"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network."""

    network: nn.Module
    epochs: tuple[EpochResult, ...]
    #: The time of all epochs, with those before a restart.
    seconds: float
    peak_memory_bytes: int


def training_precision(device: torch.device) -> Precision:
    """Return the number format of a training's forward passes on a device.

    A processor that emulates bfloat16 takes twelve times as long as in single precision.
    """
    return Precision.BF16 if native_bf16(device) else Precision.FP32


def fit_backbone(
    backbone: str,
    sides: Sides,
    recipe: Recipe,
    initial: InitialWeights,
    *,
    seed: int,
    folder: Path,
    on_progress: OnProgress = lambda *_: None,
) -> Fitted:
    """Train one backbone as fastai's `fine_tune` does, or go on with a trained one.

    Pictures of a former site are replayed: half of each batch is from its training side.
    Checkpoints are kept in `folder`, and a checkpoint found there is resumed from. The same seed, data and
    machine give the same network, interrupted or not.
    Raises InitialWeightsUnfit, TooFewForBatch, TrainingDiverged.
    """
    if sides.images < recipe.batch_size:
        raise TooFewForBatch
    device = best_device()
    whole = recipe.epochs if recipe.continued else recipe.epochs + 1
    epochs = Epochs(read_checkpoint(folder), whole, folder, on_progress)
    best = BestEpoch(epochs, folder)
    set_seed(seed, reproducible=True)
    network = initial_network(backbone, len(sides.dataset.classes), initial)
    precision = training_precision(device)
    in_blocks = is_blocked(device, precision)
    layout = [] if in_blocks else [ChannelsLast()]
    autocast = [Autocast(device)] if precision is Precision.BF16 else []
    learner = Learner(
        make_dataloaders(sides, recipe, device),
        network,
        loss_func=_loss(recipe, sides, device),
        splitter=model_meta[getattr(models, backbone)]["split"],
        metrics=[accuracy],
        wd=recipe.weight_decay,
        # By default fastai trains the batch norm of frozen layers, and updates its statistics.
        train_bn=not recipe.continued,
        cbs=[*layout, *autocast, epochs, *([BnFreeze(), best] if recipe.continued else [])],
    )
    train = _go_on if recipe.continued else _fine_tune
    with blocked(network) if in_blocks else nullcontext(), learner.no_bar(), learner.no_logging():
        train(learner, recipe.epochs, epochs)
    results = best.restore(network) if recipe.continued else tuple(epochs.results)
    shutil.rmtree(folder, ignore_errors=True)
    return Fitted(network, results, sum(epoch.seconds for epoch in epochs.results), _peak_memory(device))


def _fine_tune(learner: Any, count: int, epochs: Epochs) -> None:
    """Do what `Learner.fine_tune(count)` does, in two phases that can be resumed.

    One epoch trains the head alone; then `count` epochs train all layers, at half the rate for the head and a
    hundredth of that for the first layers (Howard and Gugger 2020, section 2.2).
    """
    checkpoint, done = epochs.resume, len(epochs.results)
    learner.freeze()
    if checkpoint is not None:
        checkpoint.restore_weights(learner)
    if done < 1:
        learner.fit_one_cycle(1, slice(_BASE_RATE), pct_start=0.99)
    learner.unfreeze()
    if checkpoint is not None and done > 1:
        # Not earlier: `unfreeze` resets the optimiser's state, as it does between the two phases.
        checkpoint.restore_optimiser(learner)
    epochs.finished = max(done - 1, 0)
    if epochs.finished < count:
        rate = _BASE_RATE / 2
        learner.fit_one_cycle(
            count, slice(rate / _RATIO, rate), pct_start=0.3, div=_DIV, start_epoch=epochs.finished
        )


def _go_on(learner: Any, count: int, epochs: Epochs) -> None:
    """Train all layers but the first ones for `count` epochs, at low rates, resumably.

    The first layers are the first of fastai's three groups: in a ResNet from the stem to the second of the
    four layers, in AlexNet the first two convolutions. They tell edges and textures, which are those of any
    radiograph; few labels would only spoil them.
    """
    checkpoint = epochs.resume
    learner.freeze_to(1)
    if checkpoint is not None:
        checkpoint.restore_weights(learner)
        checkpoint.restore_optimiser(learner)
    epochs.finished = len(epochs.results)
    if epochs.finished < count:
        rates = slice(_SITE_RATE / _SITE_RATIO, _SITE_RATE)
        learner.fit_one_cycle(count, rates, pct_start=0.3, div=_DIV, start_epoch=epochs.finished)


def _loss(recipe: Recipe, sides: Sides, device: torch.device) -> Any:
    weight = None
    if recipe.balanced:
        shares = sides.shares()
        balanced = 1 / (len(shares) * shares)
        weight = torch.tensor(balanced, dtype=torch.float32, device=device)
    if recipe.label_smoothing:
        return LabelSmoothingCrossEntropyFlat(eps=recipe.label_smoothing, weight=weight)
    return CrossEntropyLossFlat(weight=weight)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # In kilobytes on Linux, in bytes on macOS.
    with suppress(OSError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return 0
