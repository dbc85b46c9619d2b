"""The table of runtimes, and the loading of a model from its folder."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from db.models.card import ModelCard
from db.models.store import read_card, read_checked_weights
from worker.runtime.protocol import Loader, Runtime

#: The runtime that defines the probabilities. Training and evaluation use it.
REFERENCE = "torch"

#: The module of each runtime. A module is imported when its runtime is first used: each is a large library.
RUNTIMES = {
    "openvino": "worker.runtime.openvino.runtime",
    "torch": "worker.runtime.torch.runtime",
}

#: What drivers of GPUs make: NVIDIA's, AMD's, and that of Windows under Linux.
_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def chosen(setting: str) -> str:
    """Return the name of the runtime that the setting `runtime` chooses on this machine.

    That is PyTorch for a GPU, and OpenVINO for a CPU if it is installed. A GPU is not looked for with
    PyTorch, whose import takes seconds.
    """
    if setting != "auto":
        return setting
    has_gpu = any(Path(device).exists() for device in _GPUS)
    return REFERENCE if has_gpu or find_spec("openvino") is None else "openvino"


def load_model(
    folder: Path,
    *,
    card: ModelCard | None = None,
    digest: str | None = None,
    runtime: str = REFERENCE,
    device: str | None = None,
) -> Runtime:
    """Load the model in a folder.

    `card` is the registered card, by default the one in the folder. `digest` is the registered digest of the
    weights, by default the card's. `device` is `cpu` or `cuda`, by default the best one that is available.
    Raises ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch, ModelWeightsUnfit,
    DeviceUnusable.
    """
    card = card or read_card(folder)
    card.check_preprocessing()
    weights = read_checked_weights(folder, digest or card.weights_digest)
    loader = cast(Loader, import_module(RUNTIMES[runtime]))
    return loader.load(card, weights, device=device)
