"""The ranges of values that are rounded to whole numbers of 8 bits, learnt from pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from db.models.card import ModelCard
from worker.runtime.openvino.network import build_graph

#: Inputs that stay in single precision: in the first layers of a network, rounding costs most of the accuracy
#: and saves a twentieth of the time.
_KEPT = frozenset({"0.3", "0.4.0.relu1", "0.4.0.relu2", "0.0.2"})

_BINS = 2048
#: Of the values of an input, one in so many is counted.
_STRIDE = 16
#: Shares of the highest value that are tried as the end of a range.
_ENDS = np.linspace(0.15, 1, 60)
#: The largest whole number of 8 bits.
_STEPS = 255


def learn_ranges(card: ModelCard, weights: bytes, pictures: NDArray[np.uint8]) -> dict[str, float]:
    """Return the highest value of each input of convolutions that is to be rounded, by its name.

    `pictures` are (N, 224, 224, 3). What is above a range is cut off. A range has the least mean squared
    error of cutting off and rounding, as in Banner et al. 2019, section 3 ("Post training 4-bit quantization
    of convolutional networks"), here over measured values.
    Raises ModelInvalid, ModelWeightsUnfit.
    """
    network = build_graph(card, weights)
    points = _points(network)
    network.add_outputs([node.output(0) for node in points.values()])
    network.reshape([1, 224, 224, 3])
    request = openvino.Core().compile_model(network, "CPU").create_infer_request()
    highest = dict.fromkeys(points, 0.0)
    for found in _inputs(request, points, pictures):
        highest = {name: max(highest[name], float(values.max())) for name, values in found.items()}
    # An input that is 0 for all pictures needs no range.
    counts = {name: np.zeros(_BINS) for name in points if highest[name] > 0}
    for number, found in enumerate(_inputs(request, points, pictures)):
        for name in counts:
            some = found[name].ravel()[number % _STRIDE :: _STRIDE]
            # Relative to the picture's own values, so that a few strong pictures do not decide alone.
            weight = 1 / max(float(np.mean(some**2)), 1e-12)
            counts[name] += weight * np.histogram(some[some > 0], _BINS, (0, highest[name]))[0]
    return {name: _best_end(counts[name], highest[name]) for name in counts}


def _points(network: openvino.Model) -> dict[str, Any]:
    """Return the nodes whose values are rounded, by name."""
    convolutions = (node for node in network.get_ordered_ops() if node.get_type_name() == "Convolution")
    inputs = (node.input_value(0).get_node() for node in convolutions)
    named = {node.get_friendly_name(): node for node in inputs if node.get_type_name() in ("Relu", "MaxPool")}
    return {name: node for name, node in named.items() if name not in _KEPT}


def _inputs(request: Any, points: dict[str, Any], pictures: NDArray[np.uint8]) -> Any:
    """Yield the values of all points, by name, for one picture after another."""
    for number in range(len(pictures)):
        request.infer({0: pictures[number : number + 1]})
        # The first two outputs are the logits and the features.
        yield {name: request.get_output_tensor(place).data for place, name in enumerate(points, 2)}


def _best_end(counts: NDArray[np.float64], highest: float) -> float:
    middles = (np.arange(_BINS) + 0.5) * highest / _BINS

    def error(end: float) -> float:
        rounding = (end / _STEPS) ** 2 / 12
        return float((counts * np.where(middles > end, (middles - end) ** 2, rounding)).sum())

    # Four digits: a card is read by people, too.
    return round(float(min(_ENDS * highest, key=error)), 4)
