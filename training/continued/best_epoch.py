"""The epoch that is kept: the one with the lowest loss on images of other patients."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save
from torch import nn

from db.atomic import needs_room, write_whole
from training.fitting.callbacks import Epochs
from training.outcome import EpochResult
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import Callback  # noqa: E402  (needs torchvision to be importable)


class BestEpoch(Callback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the lowest validation loss, which is early stopping in effect.

    They are in a file beside the checkpoint, so that an interrupted training has them too.
    """

    #: After fastai's Recorder (50), which computes the loss, and before `Epochs` (80), which records it: if
    #: the process is killed in between, the epoch is trained again and gives the same file.
    order = 75

    def __init__(self, epochs: Epochs, checkpoint: Path) -> None:
        super().__init__()
        self._epochs, self._file = epochs, checkpoint.with_name("best.safetensors")

    def after_epoch(self) -> None:
        """Write the weights if the epoch that has just ended is the best one. Raises DiskFull."""
        if self.learn.epoch < self._epochs.finished:
            return  # it was finished before a restart
        loss = float(self.learn.recorder.values[-1][1])
        if all(loss < one.valid_loss for one in self._epochs.results):
            tensors = {name: tensor.contiguous() for name, tensor in self.learn.model.state_dict().items()}
            with needs_room():
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with write_whole(self._file) as file:
                    file.write(save(tensors))

    def restore(self, network: nn.Module) -> tuple[EpochResult, ...]:
        """Give the network the best weights, and return the epochs up to the one that had them."""
        results = self._epochs.results
        best = min(range(len(results)), key=lambda index: results[index].valid_loss)
        network.load_state_dict(load_file(self._file))
        self._file.unlink()
        return tuple(results[: best + 1])
