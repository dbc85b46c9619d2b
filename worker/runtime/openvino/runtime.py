"""A model in OpenVINO: each request computes one picture on one core."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from db.models.card import ModelCard
from worker.runtime.features import feature_count
from worker.runtime.openvino.network import build_graph
from worker.runtime.precision import ladder
from worker.runtime.protocol import DeviceUnusable, Output, Precision, device_errors


def load(card: ModelCard, weights: bytes, *, device: str | None = None) -> OpenVinoRuntime:
    """Build the graph of a model from its weights, and compile it.

    Raises ModelInvalid, ModelWeightsUnfit, DeviceUnusable.
    """
    if device not in (None, "cpu"):
        raise DeviceUnusable(f"OpenVINO runs on the CPU, not on {device}")
    with device_errors():
        return OpenVinoRuntime(card, weights)


class OpenVinoRuntime:
    """A network on the CPU, with the card of its model.

    A request holds one picture and runs in one thread. So a picture's probabilities depend neither on the
    pictures beside it nor on the number of cores.
    """

    #: No picture has to be added to a pass.
    depends_on_pass_size = False

    def __init__(self, card: ModelCard, weights: bytes) -> None:
        self.card = card
        self._weights = weights
        self._requests: dict[Precision, openvino.AsyncInferQueue] = {}
        # Weights that do not fit are found out now. The other number formats wait until a picture needs them.
        self._queue(ladder(self)[0])

    @property
    def name(self) -> str:
        """OpenVINO and its version."""
        return f"openvino-{str(openvino.__version__).partition('-')[0]}/cpu"

    @property
    def precisions(self) -> frozenset[Precision]:
        """What the CPU computes fast: 8 bits on most, bfloat16 on some."""
        return _fast_here()

    def forward(self, pictures: NDArray[np.uint8], precision: Precision = Precision.FP32) -> Output:
        """Return what the network gives for pictures (N, 224, 224, 3). Raises DeviceUnusable."""
        logits = np.empty((len(pictures), len(self.card.classes)), dtype=np.float32)
        features = np.empty((len(pictures), feature_count(self.card.backbone)), dtype=np.float32)
        with device_errors():
            requests = self._queue(precision)

            def keep(request: Any, place: int) -> None:
                logits[place] = request.get_output_tensor(0).data[0]
                features[place] = request.get_output_tensor(1).data[0]

            requests.set_callback(keep)
            for place in range(len(pictures)):
                # Not shared: a request copies its picture, so that no other request can overwrite it.
                requests.start_async({0: pictures[place : place + 1]}, place, share_inputs=False)
            requests.wait_all()
        return Output(_softmax(logits / np.float32(self.card.temperature)), features)

    def peak_memory(self) -> int | None:
        """Return None: no GPU is used."""
        return None

    def _queue(self, precision: Precision) -> openvino.AsyncInferQueue:
        """Return requests that compute in a number format. At the first call they are compiled."""
        if precision not in self._requests:
            ranges = self.card.precisions[precision].ranges if precision is Precision.INT8 else {}
            network = build_graph(self.card, self._weights, ranges)
            network.reshape([1, 224, 224, 3])
            cores = _cores()
            settings = {
                # What is not rounded to whole numbers is in single precision.
                "INFERENCE_PRECISION_HINT": "bf16" if precision is Precision.BF16 else "f32",
                "NUM_STREAMS": cores,
                "INFERENCE_NUM_THREADS": cores,
                # Pinned, the workers of one machine would all compute on its first cores.
                "ENABLE_CPU_PINNING": False,
            }
            compiled = openvino.Core().compile_model(network, "CPU", settings)
            # One request for each core, and one more that waits.
            self._requests[precision] = openvino.AsyncInferQueue(compiled, cores + 1)
        return self._requests[precision]


@cache
def _fast_here() -> frozenset[Precision]:
    """Return the number formats that this CPU computes fast."""
    known: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return frozenset(one for one in Precision if one.name in known)


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
