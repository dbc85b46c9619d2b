"""The runtime of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from db.models.card import ModelCard
from worker.runtime.features import FEATURE_LAYER, half_of
from worker.runtime.protocol import ModelWeightsUnfit, Output, PassTooLarge, Precision, device_errors
from worker.runtime.torch.device import best_device, forbid_tf32, native_bf16
from worker.runtime.torch.normalisation import normalise
from worker.runtime.weights import unpack_weights
from worker.torchvision_pair import import_torchvision

if TYPE_CHECKING:
    from collections.abc import Callable


def load(card: ModelCard, weights: bytes, *, device: str | None = None) -> TorchRuntime:
    """Build the network of a model and load its weights.

    Raises ModelInvalid, ModelWeightsUnfit, DeviceUnusable.
    """
    with device_errors():
        network = load_network(card, weights)
        return TorchRuntime(card, network, device=torch.device(device) if device else best_device())


def load_network(card: ModelCard, weights: bytes) -> nn.Module:
    """Return the network of a model with its weights. Raises ModelInvalid, ModelWeightsUnfit."""
    state = {name: torch.from_numpy(values) for name, values in unpack_weights(weights).items()}
    # A network on the meta device has shapes and no values, so no time goes into random ones.
    with torch.device("meta"):
        network = build_network(card.backbone, len(card.classes))
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelWeightsUnfit(card.backbone) from error
    return network


def build_network(backbone: str, classes: int) -> nn.Module:
    """Return fastai's body and head for a backbone, with random weights and without normalisation."""
    import_torchvision()
    from fastai.vision.learner import create_vision_model
    from torchvision import models

    architecture: Callable[..., nn.Module] = getattr(models, backbone)
    network: nn.Module = create_vision_model(architecture, classes, pretrained=False)
    return network


class TorchRuntime:
    """A network in evaluation mode on its device, with the card of its model."""

    #: Libraries choose their kernels by the shape of their input.
    depends_on_pass_size = True

    def __init__(self, card: ModelCard, network: nn.Module, *, device: torch.device) -> None:
        self.card = card
        self.device = device
        forbid_tf32()
        # Convolutions on channels-last tensors take less than half the time on a CPU.
        self._network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._layer = network.get_submodule(FEATURE_LAYER[card.backbone])

    @property
    def name(self) -> str:
        """Torch, its version and the device."""
        return f"torch-{torch.__version__}/{self.device.type}"

    @property
    def precisions(self) -> frozenset[Precision]:
        """Single precision, and bfloat16 if the device computes it natively."""
        single = frozenset({Precision.FP32})
        return single | {Precision.BF16} if native_bf16(self.device) else single

    def forward(self, pictures: NDArray[np.uint8], precision: Precision = Precision.FP32) -> Output:
        """Return what the network gives for pictures (N, 224, 224, 3) in one pass.

        Raises PassTooLarge, DeviceUnusable.
        """
        # After an error of its GPU, a process gets no further answer from the GPU.
        with device_errors(lost=self.device.type == "cuda"):
            try:
                return self._forward(pictures, precision)
            except torch.OutOfMemoryError:
                pass
        # Not in the handler: the error keeps the tensors of the failed pass in memory.
        torch.cuda.empty_cache()
        raise PassTooLarge

    def logits(
        self, pictures: NDArray[np.uint8], precision: Precision = Precision.FP32
    ) -> NDArray[np.float32]:
        """Return logits (N, classes) of pictures, before the card's temperature; for calibration."""
        result: NDArray[np.float32] = self._logits(pictures, precision).cpu().numpy()
        return result

    def peak_memory(self) -> int | None:
        """Return the most bytes of GPU memory that this process has held, None on a CPU."""
        return int(torch.cuda.max_memory_allocated()) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def _forward(self, pictures: NDArray[np.uint8], precision: Precision) -> Output:
        with _features_of(self._layer) as features:
            scaled = self._logits(pictures, precision) / self.card.temperature
        return Output(scaled.softmax(dim=1).cpu().numpy(), torch.cat(features, dim=1).cpu().numpy())

    @torch.inference_mode()
    def _logits(self, pictures: NDArray[np.uint8], precision: Precision) -> torch.Tensor:
        # A permuted NHWC array is a channels-last NCHW tensor already: nothing is copied.
        tensor = torch.from_numpy(pictures).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        inputs = normalise(tensor, self.card.mean, self.card.std)
        autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision is Precision.BF16)
        with autocast:
            logits: torch.Tensor = self._network(inputs)
        return logits.float()


@contextmanager
def _features_of(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yield a list to which a pass adds the features of each half of a layer, float32 (N, channels)."""
    found: list[torch.Tensor] = []

    def look(_: nn.Module, __: object, values: torch.Tensor) -> None:
        half = half_of(values.shape[2])
        for part in (values[:, :, :half], values[:, :, -half:]):
            found.append(part.mean(dim=(2, 3), dtype=torch.float32))

    handle = layer.register_forward_hook(look)
    try:
        yield found
    finally:
        handle.remove()
