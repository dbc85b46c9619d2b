"""Callbacks of a training in fastai: its number format, its progress and its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from db.errors import PneumoscreenError
from training.fitting.checkpoint import Checkpoint, save_checkpoint
from training.outcome import EpochResult
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import Callback  # noqa: E402  (needs torchvision to be importable)

#: Gets the finished share of a training, from 0 to 1, and its finished epochs.
OnProgress = Callable[[float, tuple[EpochResult, ...]], None]


class TrainingDiverged(PneumoscreenError):
    """The loss became infinite or not a number. Check the labels, or lower the learning rate."""

    code = "training-diverged"


class Autocast(Callback):  # type: ignore[misc]
    """bfloat16 forward passes on any device that supports it; fastai's own callback supports CUDA only."""

    #: As early as fastai's own MixedPrecision.
    order = 10

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def before_batch(self) -> None:
        """Enter the autocast region for the forward pass."""
        self.region = torch.autocast(self.device.type, dtype=torch.bfloat16)
        self.region.__enter__()

    def after_pred(self) -> None:
        """Leave the region: the loss is computed in single precision."""
        self.region.__exit__(None, None, None)
        self.learn.pred = self.learn.pred.float()


class Epochs(Callback):  # type: ignore[misc]
    """Records epochs, saves a checkpoint after each but the last, and stops a training that diverges."""

    #: After fastai's Recorder (50), which computes the values, and SkipToEpoch (70).
    order = 80

    def __init__(
        self, checkpoint: Checkpoint | None, whole: int, folder: Path, on_progress: OnProgress
    ) -> None:
        """`checkpoint` is where to resume, `whole` the number of epochs of the whole training."""
        super().__init__()
        self.results: list[EpochResult] = list(checkpoint.epochs) if checkpoint else []
        self._whole, self._folder, self._on_progress = whole, folder, on_progress
        #: Epochs of the present phase that were finished before a restart.
        self.finished = 0
        #: The checkpoint to resume from, until it has been used.
        self.resume = checkpoint

    def before_epoch(self) -> None:
        """Restore the random generators and the running loss of an interrupted training."""
        if self.resume is not None:
            self.resume.restore_generators(self.learn)
            if self.finished:
                self.resume.restore_running_loss(self.learn)
            self.resume = None
        self._start = time.monotonic()

    def after_loss(self) -> None:
        """Raise TrainingDiverged at the first loss that is not finite."""
        if not torch.isfinite(self.learn.loss_grad).all():
            raise TrainingDiverged

    def after_batch(self) -> None:
        """Report progress."""
        if self.learn.training:
            part = (self.learn.iter + 1) / self.learn.n_iter
            self._on_progress((len(self.results) + part) / self._whole, tuple(self.results))

    def after_epoch(self) -> None:
        """Keep what the recorder has just written."""
        if self.learn.epoch < self.finished:
            return  # it was finished before the restart
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
        # After the last epoch there is nothing to resume.
        if len(self.results) < self._whole:
            save_checkpoint(self._folder, self.learn, self.results)
