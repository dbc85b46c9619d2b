"""The network of a model as a graph of OpenVINO, built from its weights: PyTorch is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from db.models.card import ModelCard
from worker.runtime.protocol import ModelWeightsUnfit
from worker.runtime.weights import unpack_weights

#: Blocks in each of the four layers of a ResNet (He et al. 2016, table 1), and convolutions in a block.
_RESNETS = {"resnet18": ((2, 2, 2, 2), 2), "resnet34": ((3, 4, 6, 3), 2), "resnet50": ((3, 4, 6, 3), 3)}

#: The convolutions of AlexNet (Krizhevsky 2014, as in torchvision): place, stride, padding, and whether a max
#: pooling follows.
_ALEXNET = ((0, 4, 2, True), (3, 1, 2, True), (6, 1, 1, False), (8, 1, 1, False), (10, 1, 1, True))

#: torchvision's and fastai's batch norm.
_EPSILON = 1e-5

#: OpenVINO is untyped.
Node = Any


def build_graph(card: ModelCard, weights: bytes) -> openvino.Model:
    """Return the network that gives logits (N, classes) of uint8 pictures (N, 224, 224, 3).

    It is fastai's body and head for the card's backbone, with the normalisation before it. Each operation
    has the name of its weights.
    Raises ModelInvalid, ModelWeightsUnfit.
    """
    # The counters of batch norm take part in training alone.
    state = unpack_weights(weights)
    graph = _Graph({name: state[name] for name in state if not name.endswith("num_batches_tracked")})
    picture = ops.parameter([-1, 224, 224, 3], np.uint8, name="pictures")
    try:
        body = _alexnet if card.backbone == "alexnet" else _resnet
        logits = _head(graph, body(graph, _normalised(card, picture), card.backbone))
    except (KeyError, RuntimeError) as error:
        raise ModelWeightsUnfit(card.backbone) from error
    if graph.unused() or logits.get_output_partial_shape(0)[1].get_length() != len(card.classes):
        raise ModelWeightsUnfit(card.backbone)
    return openvino.Model([logits], [picture], card.model_id)


class _Graph:
    """Operations that take their weights by name."""

    def __init__(self, state: dict[str, NDArray[np.generic]]) -> None:
        self._state = state
        self._used: set[str] = set()

    def unused(self) -> set[str]:
        """Return the names of weights that no operation has taken."""
        return self._state.keys() - self._used

    def has(self, name: str) -> bool:
        return name in self._state

    def convolution(self, values: Node, name: str, *, stride: int = 1, padding: int = 0) -> Node:
        """Convolve (N, C, H, W) with the filters `name`.weight, and add `name`.bias if there is one."""
        pads = [padding, padding]
        result = ops.convolution(
            values, self._take(f"{name}.weight"), [stride, stride], pads, pads, [1, 1], name=name
        )
        if self.has(f"{name}.bias"):
            result = ops.add(result, self._take(f"{name}.bias", 1, -1, 1, 1))
        return result

    def norm(self, values: Node, name: str) -> Node:
        """Normalise each channel of (N, C, ...) with the mean and variance of training."""
        parts = (self._take(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var"))
        return ops.batch_norm_inference(values, *parts, epsilon=_EPSILON)

    def linear(self, values: Node, name: str) -> Node:
        """Multiply (N, features) by the matrix `name`.weight."""
        return ops.matmul(values, self._take(f"{name}.weight"), False, True, name=name)

    def _take(self, name: str, *shape: int) -> Node:
        self._used.add(name)
        values = self._state[name]
        # Given as an array, the values would become a list of Python's numbers first.
        return ops.constant(values.reshape(shape) if shape else values)


def _normalised(card: ModelCard, picture: Node) -> Node:
    """Return pictures as (N, 3, H, W), less the card's mean and divided by its standard deviation.

    The order of the steps is that of `worker.runtime.torch.normalisation`.
    """
    unit = ops.divide(ops.convert(picture, np.float32), np.float32(255))
    centred = ops.subtract(unit, _channels(card.mean))
    return ops.transpose(ops.divide(centred, _channels(card.std)), np.array([0, 3, 1, 2]))


def _channels(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32).reshape(1, 1, 1, 3)


def _resnet(graph: _Graph, values: Node, backbone: str) -> Node:
    layers, convolutions = _RESNETS[backbone]
    values = graph.convolution(values, "0.0", stride=2, padding=3)
    values = _max_pool(ops.relu(graph.norm(values, "0.1")), padding=1)
    for layer, blocks in enumerate(layers):
        for block in range(blocks):
            stride = 2 if layer and not block else 1
            values = _block(graph, values, f"0.{layer + 4}.{block}", convolutions, stride)
    return values


def _block(graph: _Graph, values: Node, name: str, convolutions: int, stride: int) -> Node:
    """Two filters of 3x3, or one between two of 1x1; the first of 3x3 has the stride (ResNet v1.5)."""
    result, wide = values, 2 if convolutions == 3 else 1
    for number in range(1, convolutions + 1):
        padding = 0 if convolutions == 3 and number != 2 else 1
        result = graph.convolution(
            result, f"{name}.conv{number}", stride=stride if number == wide else 1, padding=padding
        )
        result = graph.norm(result, f"{name}.bn{number}")
        if number < convolutions:
            result = ops.relu(result)
    if graph.has(f"{name}.downsample.0.weight"):
        values = graph.convolution(values, f"{name}.downsample.0", stride=stride)
        values = graph.norm(values, f"{name}.downsample.1")
    return ops.relu(ops.add(result, values))


def _alexnet(graph: _Graph, values: Node, _backbone: str) -> Node:
    for place, stride, padding, pooled in _ALEXNET:
        values = ops.relu(graph.convolution(values, f"0.0.{place}", stride=stride, padding=padding))
        if pooled:
            values = _max_pool(values)
    return values


def _max_pool(values: Node, padding: int = 0) -> Node:
    pads = [padding, padding]
    return ops.max_pool(values, [2, 2], [1, 1], pads, pads, [3, 3]).output(0)


def _head(graph: _Graph, values: Node) -> Node:
    """Fastai's head: the largest and the mean value of each channel, and two linear layers."""
    plane = np.array([2, 3])
    pooled = ops.concat([ops.reduce_max(values, plane), ops.reduce_mean(values, plane)], axis=1)
    hidden = ops.relu(graph.linear(graph.norm(pooled, "1.2"), "1.4"))
    return graph.linear(graph.norm(hidden, "1.6"), "1.8")
