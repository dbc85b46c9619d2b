"""Training one backbone by one recipe; a killed training goes on from its last epoch."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from db.errors import PneumoscreenError
from training.data.loaders import make_dataloaders
from training.fitting.backbones import IMAGENET_MEAN, IMAGENET_STD, InitialWeights, initial_network
from training.fitting.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from training.outcome import EpochResult
from worker.runtime.device import best_device, native_bf16
from worker.runtime.protocol import Precision
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import (  # noqa: E402  (needs torchvision to be importable)
    Callback,
    ChannelsLast,
    CrossEntropyLossFlat,
    LabelSmoothingCrossEntropyFlat,
    Learner,
    accuracy,
    model_meta,
    set_seed,
)
from torchvision import models  # noqa: E402  (after it)

if TYPE_CHECKING:
    from torch import nn

    from training.data.prepare import Prepared
    from training.recipe import Recipe

#: What `fine_tune` does by default (fastai 2.8, `callback/schedule.py`).
_BASE_RATE, _RATIO, _DIV = 2e-3, 100, 5.0


class TrainingDiverged(PneumoscreenError):
    """The loss became infinite or no number at all. Look for broken labels, or lower the learning rate."""

    code = "training-diverged"


class TooFewForBatch(PneumoscreenError):
    """The training side holds less than one batch of images. Label more, or choose a smaller batch."""

    code = "too-few-for-batch"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network."""

    network: nn.Module
    epochs: tuple[EpochResult, ...]
    #: Of all epochs, those before a restart included.
    seconds: float
    peak_memory_bytes: int


#: Gets the finished part of a training and its finished epochs.
OnStep = Callable[[float, tuple[EpochResult, ...]], None]


def training_precision(device: torch.device) -> Precision:
    """Return the number format of a training's forward passes on a device.

    A processor that imitates bfloat16 takes twelve times as long in it as in single precision.
    """
    return Precision.BF16 if native_bf16(device) else Precision.FP32


class Autocast(Callback):  # type: ignore[misc]
    """bfloat16 forward passes on any device that has it; fastai's own callback knows CUDA alone."""

    #: As early as fastai's own MixedPrecision.
    order = 10

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def before_batch(self) -> None:
        """Enter the region for the forward pass."""
        self.region = torch.autocast(self.device.type, dtype=torch.bfloat16)
        self.region.__enter__()

    def after_pred(self) -> None:
        """Leave it: the loss is computed in single precision."""
        self.region.__exit__(None, None, None)
        self.learn.pred = self.learn.pred.float()


class _Progress(Callback):  # type: ignore[misc]
    """Collects epochs, keeps checkpoints and stops a training that diverges."""

    #: After fastai's Recorder (50), which computes the values, and SkipToEpoch (70).
    order = 80

    def __init__(self, epochs: list[EpochResult], whole: int, folder: Path, on_step: OnStep) -> None:
        """Add to `epochs`, of which there will be `whole`."""
        super().__init__()
        self.results, self._whole, self._folder, self._on_step = epochs, whole, folder, on_step
        #: Finished epochs of this phase; the checkpoint to go on from, until it has been gone on from.
        self.finished = 0
        self.resume: Checkpoint | None = None

    def before_epoch(self) -> None:
        """Go on as the uninterrupted training would have."""
        if self.resume is not None:
            self.resume.restore_generators(self.learn)
            if self.finished:
                self.resume.restore_running_loss(self.learn)
            self.resume = None
        self._start = time.monotonic()

    def after_loss(self) -> None:
        """Raise TrainingDiverged at the first loss that is no number."""
        if not torch.isfinite(self.learn.loss_grad).all():
            raise TrainingDiverged

    def after_batch(self) -> None:
        """Say how much is done."""
        if self.learn.training:
            part = (self.learn.iter + 1) / self.learn.n_iter
            self._on_step((len(self.results) + part) / self._whole, tuple(self.results))

    def after_epoch(self) -> None:
        """Keep what the recorder has just written."""
        if self.learn.epoch < self.finished:
            return  # one that was done before the restart
        train_loss, valid_loss, score = (float(value) for value in self.learn.recorder.values[-1])
        self.results.append(
            EpochResult(
                epoch=len(self.results),
                train_loss=train_loss,
                valid_loss=valid_loss,
                accuracy=score,
                seconds=time.monotonic() - self._start,
            )
        )
        save_checkpoint(self._folder, self.learn, self.results)


def fit_backbone(
    backbone: str,
    prepared: Prepared,
    recipe: Recipe,
    initial: InitialWeights,
    *,
    seed: int,
    folder: Path,
    on_step: OnStep = lambda *_: None,
) -> Fitted:
    """Train one backbone as fastai's `fine_tune` does.

    Checkpoints are kept in `folder`, and one that is there is gone on from. The same seed, data and
    machine give the same network, interrupted or not. `on_step` gets the finished part, from 0 to 1, and
    the finished epochs. Raises InitialWeightsUnfit, TooFewForBatch, TrainingDiverged.
    """
    if len(prepared.training) < recipe.batch_size:
        raise TooFewForBatch
    device = best_device()
    checkpoint = read_checkpoint(folder)
    set_seed(seed, reproducible=True)
    network = initial_network(backbone, len(prepared.classes), initial)
    epochs = list(checkpoint.epochs) if checkpoint else []
    progress = _Progress(epochs, recipe.epochs + 1, folder, on_step)
    autocast = [Autocast(device)] if training_precision(device) is Precision.BF16 else []
    learner = Learner(
        make_dataloaders(prepared, recipe, device),
        network,
        loss_func=_loss(recipe, prepared, device),
        splitter=model_meta[getattr(models, backbone)]["split"],
        metrics=[accuracy],
        wd=recipe.weight_decay,
        cbs=[ChannelsLast(), *autocast, progress],
    )
    with learner.no_bar(), learner.no_logging():
        _fine_tune(learner, recipe.epochs, progress, checkpoint)
    shutil.rmtree(folder, ignore_errors=True)
    return Fitted(network, tuple(epochs), sum(epoch.seconds for epoch in epochs), _peak_memory(device))


def _fine_tune(learner: Any, epochs: int, progress: _Progress, checkpoint: Checkpoint | None) -> None:
    """Do what `Learner.fine_tune(epochs)` does, in two phases that can be gone on from.

    One epoch with the head alone, then `epochs` with all layers, at half the rate for the head and a
    hundredth of that for the first layers (Howard and Gugger 2020, section 2.2).
    """
    done = len(checkpoint.epochs) if checkpoint else 0
    learner.freeze()
    if checkpoint is not None:
        checkpoint.restore_weights(learner)
        progress.resume = checkpoint
    if done < 1:
        learner.fit_one_cycle(1, slice(_BASE_RATE), pct_start=0.99)
    learner.unfreeze()
    if checkpoint is not None and done > 1:
        # Not before: thawing forgets what the optimiser knew, as it does between the two phases.
        checkpoint.restore_optimiser(learner)
    progress.finished = max(done - 1, 0)
    if progress.finished < epochs:
        rate = _BASE_RATE / 2
        learner.fit_one_cycle(
            epochs, slice(rate / _RATIO, rate), pct_start=0.3, div=_DIV, start_epoch=progress.finished
        )


def _loss(recipe: Recipe, prepared: Prepared, device: torch.device) -> Any:
    weight = None
    if recipe.balanced:
        counts = np.bincount(prepared.targets[prepared.training], minlength=len(prepared.classes))
        balanced = counts.sum() / (len(counts) * counts)
        weight = torch.tensor(balanced, dtype=torch.float32, device=device)
    if recipe.label_smoothing:
        return LabelSmoothingCrossEntropyFlat(eps=recipe.label_smoothing, weight=weight)
    return CrossEntropyLossFlat(weight=weight)


@torch.inference_mode()
def logits(network: nn.Module, pixels: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """Return the logits (N, classes) of pictures in single precision, as screening computes them."""
    network.eval()
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)
    parts = []
    for start in range(0, len(pixels), 64):
        batch = torch.from_numpy(pixels[start : start + 64]).to(device).permute(0, 3, 1, 2)
        parts.append(network((batch.float().div_(255.0) - mean) / std).float().cpu())
    return torch.cat(parts).numpy()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # In kilobytes on Linux, in bytes on macOS.
    with suppress(OSError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return 0
