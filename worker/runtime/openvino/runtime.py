"""A model in OpenVINO: each request computes one picture on one core."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from db.models.card import ModelCard
from worker.runtime.openvino.network import build_graph
from worker.runtime.protocol import DeviceUnusable, Precision, device_errors


def load(card: ModelCard, weights: bytes, *, device: str | None = None) -> OpenVinoRuntime:
    """Build the graph of a model from its weights, and compile it.

    Raises ModelInvalid, ModelWeightsUnfit, DeviceUnusable.
    """
    if device not in (None, "cpu"):
        raise DeviceUnusable(f"OpenVINO runs on the CPU, not on {device}")
    with device_errors():
        return OpenVinoRuntime(card, build_graph(card, weights))


class OpenVinoRuntime:
    """A network on the CPU, with the card of its model.

    A request holds one picture and runs in one thread. So a picture's probabilities depend neither on the
    pictures beside it nor on the number of cores.
    """

    #: No picture has to be added to a pass.
    depends_on_pass_size = False

    def __init__(self, card: ModelCard, network: openvino.Model) -> None:
        self.card = card
        network.reshape([1, 224, 224, 3])
        cores = _cores()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
            # Pinned, the workers of one machine would all compute on its first cores.
            "ENABLE_CPU_PINNING": False,
        }
        # One request for each core, and one more that waits.
        self._requests = openvino.AsyncInferQueue(
            openvino.Core().compile_model(network, "CPU", settings), cores + 1
        )

    @property
    def name(self) -> str:
        """OpenVINO and its version."""
        return f"openvino-{str(openvino.__version__).partition('-')[0]}/cpu"

    @property
    def precisions(self) -> frozenset[Precision]:
        """Single precision alone: this runtime is for CPUs that do not compute bfloat16."""
        return frozenset({Precision.FP32})

    def probabilities(
        self, pictures: NDArray[np.uint8], precision: Precision = Precision.FP32
    ) -> NDArray[np.float32]:
        """Return class probabilities (N, classes) of pictures (N, 224, 224, 3), in single precision.

        Raises DeviceUnusable.
        """
        logits = np.empty((len(pictures), len(self.card.classes)), dtype=np.float32)
        with device_errors():

            def keep(request: Any, place: int) -> None:
                logits[place] = request.get_output_tensor().data[0]

            self._requests.set_callback(keep)
            for place in range(len(pictures)):
                # Not shared: a request copies its picture, so that no other request can overwrite it.
                self._requests.start_async({0: pictures[place : place + 1]}, place, share_inputs=False)
            self._requests.wait_all()
        return _softmax(logits / np.float32(self.card.temperature))

    def peak_memory(self) -> int | None:
        """Return None: no GPU is used."""
        return None


def computes_bf16() -> bool:
    """Tell whether this CPU computes bfloat16 natively."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _cores() -> int:
    """Return the number of cores to use: OMP_NUM_THREADS, as PyTorch does, or all that are allowed."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isdigit() and int(chosen):
        return int(chosen)
    # Not every system restricts processes to some of its cores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return result
