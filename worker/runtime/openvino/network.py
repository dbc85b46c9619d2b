"""The network of a model as a graph of OpenVINO, built from its weights: PyTorch is not imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset1
from openvino import opset13 as ops

from db.models.card import ModelCard
from worker.runtime.features import FEATURE_LAYER, half_of
from worker.runtime.protocol import ModelWeightsUnfit
from worker.runtime.weights import unpack_weights

#: Blocks in each of the four layers of a ResNet (He et al. 2016, table 1), and convolutions in a block.
_RESNETS = {"resnet18": ((2, 2, 2, 2), 2), "resnet34": ((3, 4, 6, 3), 2), "resnet50": ((3, 4, 6, 3), 3)}

#: The convolutions of AlexNet (Krizhevsky 2014, as in torchvision): place, stride, padding, and whether a max
#: pooling follows.
_ALEXNET = ((0, 4, 2, True), (3, 1, 2, True), (6, 1, 1, False), (8, 1, 1, False), (10, 1, 1, True))

#: torchvision's and fastai's batch norm.
_EPSILON = 1e-5

#: The range of a filter whose weights are all 0.
_SMALLEST = np.float32(1e-9)

#: OpenVINO is untyped.
Node = Any

#: An end of a range, or one for each filter.
Ends = np.float32 | NDArray[np.float32]

#: The highest value of the input of convolutions, by the input's name. The lowest is 0: it is rectified.
Ranges = Mapping[str, float]


def build_graph(card: ModelCard, weights: bytes, ranges: Ranges = MappingProxyType({})) -> openvino.Model:
    """Return the network that gives logits (N, classes) and features of uint8 pictures (N, 224, 224, 3).

    It is fastai's body and head for the card's backbone, with the normalisation before it. Each convolution
    and each of its inputs has the name that PyTorch gives to the layer that computes it. With `ranges`, the
    convolutions of those inputs compute with whole numbers of 8 bits.
    Raises ModelInvalid, ModelWeightsUnfit.
    """
    # The counters of batch norm take part in training alone.
    state = unpack_weights(weights)
    graph = _Graph({name: state[name] for name in state if not name.endswith("num_batches_tracked")}, ranges)
    picture = ops.parameter([-1, 224, 224, 3], np.uint8, name="pictures")
    try:
        body = _alexnet if card.backbone == "alexnet" else _resnet
        logits = _head(graph, body(graph, _normalised(card, picture), card.backbone))
        features = _features(graph.seen(FEATURE_LAYER[card.backbone]))
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelWeightsUnfit(card.backbone) from error
    if graph.unused() or logits.get_output_partial_shape(0)[1].get_length() != len(card.classes):
        raise ModelWeightsUnfit(card.backbone)
    return openvino.Model([logits, features], [picture], card.model_id)


class _Graph:
    """Operations that take their weights by name."""

    def __init__(self, state: dict[str, NDArray[np.generic]], ranges: Ranges) -> None:
        self._state = state
        self._ranges = ranges
        self._used: set[str] = set()
        self._named: dict[str, Node] = {}
        #: Rounded inputs of convolutions: two convolutions may share one.
        self._rounded: dict[str, Node] = {}

    def named(self, values: Node) -> Node:
        """Return values, and remember them by their name."""
        self._named[values.get_friendly_name()] = values
        return values

    def seen(self, name: str) -> Node:
        """Return remembered values as the convolutions after them see them: rounded if these compute so."""
        return self._rounded.get(name, self._named[name])

    def unused(self) -> set[str]:
        """Return the names of weights that no operation has taken."""
        return self._state.keys() - self._used

    def has(self, name: str) -> bool:
        return name in self._state

    def convolution(
        self, values: Node, name: str, norm: str = "", *, stride: int = 1, padding: int = 0
    ) -> Node:
        """Convolve (N, C, H, W) with the filters `name`.weight.

        Then normalise each channel with `norm`, as `norm` below does, or add `name`.bias.
        """
        weight, shift = self._take(f"{name}.weight"), self._take(f"{name}.bias") if not norm else None
        if shift is None:
            scale, shift = self._scale_and_shift(norm)
            weight = weight * scale.reshape(-1, 1, 1, 1)
        filters, pads = ops.constant(weight), [padding, padding]
        if (point := values.get_friendly_name()) in self._ranges:
            if point not in self._rounded:
                self._rounded[point] = _round(values, np.float32(0), np.float32(self._ranges[point]), 256)
            values = self._rounded[point]
            largest = np.maximum(np.abs(weight).max(axis=(1, 2, 3), keepdims=True), _SMALLEST)
            filters = _round(filters, -largest, largest, 255)
        result = ops.convolution(values, filters, [stride, stride], pads, pads, [1, 1], name=name)
        return ops.add(result, shift.reshape(1, -1, 1, 1))

    def norm(self, values: Node, name: str) -> Node:
        """Normalise each feature of (N, features) with the mean and variance of training."""
        scale, shift = self._scale_and_shift(name)
        return ops.add(ops.multiply(values, scale), shift)

    def linear(self, values: Node, name: str) -> Node:
        """Multiply (N, features) by the matrix `name`.weight."""
        return ops.matmul(values, ops.constant(self._take(f"{name}.weight")), False, True, name=name)

    def _scale_and_shift(self, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what a batch norm multiplies by, and what it then adds."""
        parts = (self._take(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var"))
        weight, bias, mean, variance = (part.astype(np.float64) for part in parts)
        scale = weight / np.sqrt(variance + _EPSILON)
        return scale.astype(np.float32), (bias - mean * scale).astype(np.float32)

    def _take(self, name: str) -> NDArray[np.float32]:
        self._used.add(name)
        return cast("NDArray[np.float32]", self._state[name])


def _round(values: Node, low: Ends, high: Ends, steps: int) -> Node:
    """Round values to the nearest of `steps` steps from `low` to `high`.

    Between two such operations OpenVINO computes with whole numbers (its operation FakeQuantize).
    """
    return ops.fake_quantize(values, low, high, low, high, steps)


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
    values = graph.convolution(values, "0.0", "0.1", stride=2, padding=3)
    values = _max_pool(ops.relu(values), "0.3", padding=1)
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
            result,
            f"{name}.conv{number}",
            f"{name}.bn{number}",
            stride=stride if number == wide else 1,
            padding=padding,
        )
        if number < convolutions:
            result = ops.relu(result, name=f"{name}.relu{number}")
    if graph.has(f"{name}.downsample.0.weight"):
        values = graph.convolution(values, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
    return graph.named(ops.relu(ops.add(result, values), name=name))


def _alexnet(graph: _Graph, values: Node, _backbone: str) -> Node:
    for place, stride, padding, pooled in _ALEXNET:
        values = graph.convolution(values, f"0.0.{place}", stride=stride, padding=padding)
        values = graph.named(ops.relu(values, name=f"0.0.{place + 1}"))
        if pooled:
            values = _max_pool(values, f"0.0.{place + 2}")
    return values


def _max_pool(values: Node, name: str, padding: int = 0) -> Node:
    pads = [padding, padding]
    return opset1.max_pool(values, [2, 2], pads, pads, [3, 3], name=name)


def _features(values: Node) -> Node:
    """Return the features (N, features) of the values (N, C, H, W) of the layer that is looked at."""
    channels, rows, columns = (side.get_length() for side in [*values.get_output_partial_shape(0)][1:])
    half = half_of(rows)
    means = opset1.avg_pool(values, [rows - half, columns], [0, 0], [0, 0], [half, columns], True)
    # Each channel of the upper half, then each of the lower one.
    return ops.reshape(ops.transpose(means, np.array([0, 2, 1, 3])), np.array([0, 2 * channels]), True)


def _head(graph: _Graph, values: Node) -> Node:
    """Fastai's head: the largest and the mean value of each channel, and two linear layers."""
    plane = np.array([2, 3])
    pooled = ops.concat([ops.reduce_max(values, plane), ops.reduce_mean(values, plane)], axis=1)
    hidden = ops.relu(graph.linear(graph.norm(pooled, "1.2"), "1.4"))
    return graph.linear(graph.norm(hidden, "1.6"), "1.8")
