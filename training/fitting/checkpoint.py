"""Checkpoints: the state of a training after an epoch, as safetensors and JSON."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from db.atomic import needs_room, partial_beside, remove_partials
from training.outcome import EpochResult

log = logging.getLogger(__name__)

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a training after its last finished epoch."""

    epochs: tuple[EpochResult, ...]
    tensors: dict[str, torch.Tensor]
    #: The optimiser's state for each parameter, without its tensors.
    optimiser: list[dict[str, Any]]
    #: The states of Python's, NumPy's and the loader's random generators.
    generators: dict[str, Any]
    #: The recorder's running training loss, which the epochs of a phase share, and its number of batches.
    running_loss: tuple[float, int]

    def restore_weights(self, learner: Any) -> None:
        """Restore the weights."""
        prefix = "model."
        learner.model.load_state_dict(
            {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
        )

    def restore_optimiser(self, learner: Any) -> None:
        """Restore the optimiser's averages and counts."""
        for index, (parameter, scalars) in enumerate(
            zip(_parameters(learner.opt), self.optimiser, strict=True)
        ):
            state = learner.opt.state[parameter]
            state.update(scalars)
            prefix = f"optimiser.{index}."
            for name, tensor in self.tensors.items():
                if name.startswith(prefix):
                    state[name.removeprefix(prefix)] = tensor.to(parameter.device)

    def restore_running_loss(self, learner: Any) -> None:
        """Restore the recorder's running training loss."""
        smooth = learner.recorder.smooth_loss
        loss, smooth.count = self.running_loss
        smooth.val = torch.tensor(loss)

    def restore_generators(self, learner: Any) -> None:
        """Restore the random generators to their states at the end of the epoch."""
        kind, values, gauss = self.generators["python"]
        random.setstate((kind, tuple(values), gauss))
        kind, values, gauss = self.generators["loader"]
        learner.dls.train.rng.setstate((kind, tuple(values), gauss))
        name, keys, *rest = self.generators["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(self.tensors["generator.cpu"])
        if "generator.cuda" in self.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.tensors["generator.cuda"])


def save_checkpoint(folder: Path, learner: Any, epochs: list[EpochResult]) -> None:
    """Write a checkpoint, whole or not at all. The earlier one stays until the new one is complete.

    Raises DiskFull.
    """
    tensors = {f"model.{name}": tensor for name, tensor in learner.model.state_dict().items()}
    optimiser: list[dict[str, Any]] = []
    for index, parameter in enumerate(_parameters(learner.opt)):
        state = learner.opt.state[parameter]
        optimiser.append({key: value for key, value in state.items() if not torch.is_tensor(value)})
        tensors |= {
            f"optimiser.{index}.{key}": value for key, value in state.items() if torch.is_tensor(value)
        }
    tensors["generator.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["generator.cuda"] = torch.cuda.get_rng_state()
    name, keys, *rest = np.random.get_state()
    smooth = learner.recorder.smooth_loss
    generators = {
        "python": random.getstate(),
        "loader": learner.dls.train.rng.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
    }
    state = {
        "epochs": [asdict(epoch) for epoch in epochs],
        "optimiser": optimiser,
        "generators": generators,
        "running_loss": (float(smooth.val), smooth.count),
    }
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    partial = partial_beside(folder)
    try:
        with needs_room():
            partial.mkdir(parents=True)
            (partial / _TENSORS).write_bytes(content)
            (partial / _STATE).write_text(json.dumps(state))
            _replace(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(folder: Path, partial: Path) -> None:
    """Replace an old folder by a new one. At every moment, one of the two can be read."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder. If none can be read, return None: the training starts again.

    Partial files of a killed process are removed from beside it, because the caller holds the run's lease.
    """
    remove_partials(folder.parent)
    for candidate in (folder, folder.with_name(f".{folder.name}.old")):
        if not (candidate / _STATE).is_file():
            continue
        try:
            state = json.loads((candidate / _STATE).read_text())
            return Checkpoint(
                epochs=tuple(EpochResult(**epoch) for epoch in state["epochs"]),
                tensors=load_file(candidate / _TENSORS),
                optimiser=state["optimiser"],
                generators=state["generators"],
                running_loss=tuple(state["running_loss"]),
            )
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            log.warning("a checkpoint cannot be read (%s) and is not used", type(error).__name__)
    return None


def _parameters(optimiser: Any) -> Iterator[torch.nn.Parameter]:
    for parameter, *_ in optimiser.all_params(with_grad=False):
        yield parameter
