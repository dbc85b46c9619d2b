"""The protocol of a runtime: a library that computes a model's probabilities from pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from db.errors import PneumoscreenError
from db.models.card import ModelCard


class ModelWeightsUnfit(PneumoscreenError):
    """The model's weights do not fit its architecture. Import a model that pneumoscreen wrote."""

    code = "model-weights-unfit"


class DeviceUnusable(PneumoscreenError):
    """The GPU or CPU that the model runs on failed or is full. See `doctor`, and what else runs on it.

    Batches wait for it. `detail` is the first line of the device's message.
    """

    code = "device-unusable"

    def __init__(self, detail: str = "", *, lost: bool = False) -> None:
        """`lost`: this process cannot use the device again, as after a CUDA error."""
        super().__init__(detail)
        self.lost = lost


@contextmanager
def device_errors(*, lost: bool = False) -> Iterator[None]:
    """Turn an error of a device into DeviceUnusable. The libraries raise RuntimeError for all of them."""
    try:
        yield
    except RuntimeError as error:
        raise DeviceUnusable(str(error).partition("\n")[0], lost=lost) from error


class PassTooLarge(Exception):
    """The pictures of one pass do not fit into the device's memory."""


class Precision(StrEnum):
    """The number format of a forward pass, fastest first."""

    #: Whole numbers of 8 bits in most convolutions: two to seven times as fast as single precision.
    INT8 = "int8"
    #: bfloat16. It is about twice as fast as single precision on a device that computes it natively.
    BF16 = "bf16"
    #: Single precision. It defines the probabilities.
    FP32 = "fp32"


@dataclass(frozen=True, slots=True)
class Output:
    """What a forward pass gives for its pictures, a row for each."""

    #: Class probabilities, float32, (N, classes); columns follow `card.classes`.
    probabilities: NDArray[np.float32]
    #: What the layers of the network find in the picture, float32, (N, features): `worker.runtime.features`.
    features: NDArray[np.float32]

    def rows(self) -> list[Output]:
        """Return the output of each picture alone: probabilities (classes,) and features (features,)."""
        return [Output(*row) for row in zip(self.probabilities, self.features, strict=True)]


class Runtime(Protocol):
    """A model that is loaded on a device; one thread at a time uses it."""

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        ...

    @property
    def name(self) -> str:
        """Library, version and device, as `torch-2.8.0/cpu`. It is stored with each prediction."""
        ...

    @property
    def precisions(self) -> frozenset[Precision]:
        """The number formats that the device computes fast. Single precision is always one of them."""
        ...

    @property
    def depends_on_pass_size(self) -> bool:
        """Whether the last bits of a picture's rows depend on the number of pictures in its pass.

        If so, black pictures fill up a pass that is not full.
        """
        ...

    def forward(self, pictures: NDArray[np.uint8], precision: Precision) -> Output:
        """Return what the network gives for pictures (N, 224, 224, 3) in one pass.

        The same picture has the same rows in every pass of N pictures.
        Raises PassTooLarge, DeviceUnusable.
        """
        ...

    def peak_memory(self) -> int | None:
        """Return the most bytes of GPU memory that this process has held, None on a CPU."""
        ...


class Loader(Protocol):
    """The module of a runtime."""

    def load(self, card: ModelCard, weights: bytes, *, device: str | None) -> Runtime:
        """Load a model from the checked content of its `model.safetensors`.

        `device` is `cpu` or `cuda`; None means the best one that is available.
        Raises ModelInvalid, ModelWeightsUnfit, DeviceUnusable.
        """
        ...
