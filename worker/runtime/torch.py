"""The resident learner: a model that is rebuilt from its artefact once and kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from db.errors import PneumoscreenError
from db.models.card import ModelCard, read_card
from worker.runtime.weights import read_weights
from worker.torchvision_pair import import_torchvision

if TYPE_CHECKING:
    from collections.abc import Callable


class ModelWeightsUnfit(PneumoscreenError):
    """The model's weights do not fit its architecture. Import a model that pneumoscreen wrote."""

    code = "model-weights-unfit"


class DeviceUnusable(PneumoscreenError):
    """The GPU or CPU that the model runs on failed or is full. See `doctor`, and what else runs on it.

    Batches wait for it. `detail` is the first line of what it says.
    """

    code = "device-unusable"


@contextmanager
def device_errors() -> Iterator[None]:
    """Raise DeviceUnusable for whatever torch raises of a device: it has RuntimeError for all of it."""
    try:
        yield
    except RuntimeError as error:
        raise DeviceUnusable(str(error).partition("\n")[0]) from error


#: Pictures in one forward pass, unless somebody says otherwise: the setting `forward_images`.
PASS_IMAGES = 16


class Precision(StrEnum):
    """The number format of the forward pass."""

    #: Single precision; what the probabilities are defined by.
    FP32 = "fp32"
    #: bfloat16 autocast; about twice as fast where the device has it.
    BF16 = "bf16"


def build_network(backbone: str, classes: int) -> nn.Module:
    """Return fastai's body and head for a backbone, with random weights and without normalisation."""
    import_torchvision()
    from fastai.vision.learner import create_vision_model
    from torchvision import models

    architecture: Callable[..., nn.Module] = getattr(models, backbone)
    network: nn.Module = create_vision_model(architecture, classes, pretrained=False)
    return network


def normalise(pixels: torch.Tensor, card: ModelCard) -> torch.Tensor:
    """Turn uint8 (N, 3, H, W) into what the network takes, in fastai's order of operations.

    fastai's `IntToFloatTensor` divides by 255, then `Normalize` subtracts the mean and divides by the
    standard deviation; another order differs in the last bit.
    """
    mean = torch.tensor(card.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(card.std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float().div_(255.0) - mean) / std


def positive_probability(card: ModelCard, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return P(PNEUMONIA), (N,), from class probabilities (N, classes); rounding never carries it over 1."""
    summed: NDArray[np.float32] = rows[:, card.positive_columns].sum(axis=1)
    return np.minimum(summed, np.float32(1.0))


def best_device() -> torch.device:
    """Return the first CUDA device, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peak_gpu_memory() -> int | None:
    """Return the most bytes that this process has held of its GPU; None on a CPU."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None


class ResidentLearner:
    """A model in evaluation mode on its device, with its card."""

    def __init__(self, card: ModelCard, network: nn.Module, *, device: torch.device) -> None:
        self.card = card
        self.device = device
        # Convolutions on channels-last tensors take less than half the time on a CPU.
        self.network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        digest: str | None = None,
        card: ModelCard | None = None,
        device: torch.device | None = None,
    ) -> ResidentLearner:
        """Rebuild a learner from its artefact.

        `card` is the registered one, by default the one beside the weights; `digest` is the registered digest
        of the weights, by default the card's.
        Raises ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch, ModelWeightsUnfit,
        DeviceUnusable.
        """
        card = card or read_card(folder)
        card.check_preprocessing()
        weights = read_weights(folder, digest or card.weights_digest)
        with device_errors():
            network = build_network(card.backbone, len(card.classes))
            try:
                network.load_state_dict(weights, strict=True)
            except RuntimeError as error:
                raise ModelWeightsUnfit(card.backbone) from error
            return cls(card, network, device=device or best_device())

    @property
    def runtime(self) -> str:
        """What computes the probabilities: library, version and device, for the record of each prediction."""
        return f"torch-{torch.__version__}/{self.device.type}"

    def probabilities(
        self, pixels: NDArray[np.uint8], precision: Precision = Precision.FP32, size: int = PASS_IMAGES
    ) -> NDArray[np.float32]:
        """Return class probabilities (N, classes) as float32 for pixels (N, 224, 224, 3) as uint8.

        Columns follow `card.classes`. Each forward pass is of `size` pictures, the last one filled up with
        black. Raises torch.OutOfMemoryError if the device has too little memory.
        """
        count, missing = len(pixels), -len(pixels) % size
        if missing:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), dtype=np.uint8)])
        rows = [self._pass(pixels[start : start + size], precision) for start in range(0, len(pixels), size)]
        return np.concatenate(rows)[:count]

    @torch.inference_mode()
    def _pass(self, pixels: NDArray[np.uint8], precision: Precision) -> NDArray[np.float32]:
        # A permuted NHWC array is a channels-last NCHW tensor already: nothing is copied.
        tensor = torch.from_numpy(pixels).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        inputs = normalise(tensor, self.card)
        autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision is Precision.BF16)
        with autocast:
            logits = self.network(inputs)
        scaled = logits.float() / self.card.temperature
        result: NDArray[np.float32] = scaled.softmax(dim=1).cpu().numpy()
        return result
