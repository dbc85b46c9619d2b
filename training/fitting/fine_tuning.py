"""Fine-tuning of one backbone by one recipe, resumable after each epoch."""

from __future__ import annotations

import resource
import shutil
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from db.errors import PneumoscreenError
from training.data.dataset import Dataset
from training.fitting.backbones import InitialWeights, initial_network
from training.fitting.callbacks import Autocast, Epochs, OnProgress
from training.fitting.checkpoint import read_checkpoint
from training.fitting.layout import blocked, is_blocked
from training.fitting.loaders import make_dataloaders
from training.outcome import EpochResult
from training.recipe import Recipe
from worker.runtime.protocol import Precision
from worker.runtime.torch.device import best_device, native_bf16
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import (  # noqa: E402  (needs torchvision to be importable)
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
    dataset: Dataset,
    recipe: Recipe,
    initial: InitialWeights,
    *,
    seed: int,
    folder: Path,
    on_progress: OnProgress = lambda *_: None,
) -> Fitted:
    """Train one backbone as fastai's `fine_tune` does.

    Checkpoints are kept in `folder`, and a checkpoint found there is resumed from. The same seed, data and
    machine give the same network, interrupted or not.
    Raises InitialWeightsUnfit, TooFewForBatch, TrainingDiverged.
    """
    if len(dataset.training) < recipe.batch_size:
        raise TooFewForBatch
    device = best_device()
    epochs = Epochs(read_checkpoint(folder), recipe.epochs + 1, folder, on_progress)
    set_seed(seed, reproducible=True)
    network = initial_network(backbone, len(dataset.classes), initial)
    precision = training_precision(device)
    in_blocks = is_blocked(device, precision)
    layout = [] if in_blocks else [ChannelsLast()]
    autocast = [Autocast(device)] if precision is Precision.BF16 else []
    learner = Learner(
        make_dataloaders(dataset, recipe, device),
        network,
        loss_func=_loss(recipe, dataset, device),
        splitter=model_meta[getattr(models, backbone)]["split"],
        metrics=[accuracy],
        wd=recipe.weight_decay,
        cbs=[*layout, *autocast, epochs],
    )
    with blocked(network) if in_blocks else nullcontext(), learner.no_bar(), learner.no_logging():
        _fine_tune(learner, recipe.epochs, epochs)
    shutil.rmtree(folder, ignore_errors=True)
    results = tuple(epochs.results)
    return Fitted(network, results, sum(epoch.seconds for epoch in results), _peak_memory(device))


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


def _loss(recipe: Recipe, dataset: Dataset, device: torch.device) -> Any:
    weight = None
    if recipe.balanced:
        counts = np.bincount(dataset.targets[dataset.training], minlength=len(dataset.classes))
        balanced = counts.sum() / (len(counts) * counts)
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
