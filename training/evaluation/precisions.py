"""Faster number formats of a trained model: how far each of them moves its log odds and its distances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from db.models.card import FasterPrecision, ModelCard
from training.fitting.augment import geometry, intensity
from worker.runtime.classes import positive_probability
from worker.runtime.passes import outputs_of
from worker.runtime.precision import log_odds
from worker.runtime.protocol import Precision, Runtime
from worker.runtime.torch.runtime import load
from worker.trust.familiarity import Statistics

#: Pictures that errors are measured on; half of them are changed at random, as another hospital's are.
_PICTURES = 256
#: The fewest pictures, and the fewest of them near doubt, that tell an error: the tails of fewer are unknown.
_LEAST = 32
#: Of those, the ones for bfloat16: a CPU without it takes a second for each.
_FEW = 64

#: The error that is allowed for, in root mean squares of the errors found; or the largest, if that is more.
_DEVIATIONS = 5.0
#: Pictures with log odds beyond these do not count: errors are larger there and change little.
_FAR = 6.0
#: The same for distances from the limit beyond which a picture is unfamiliar.
_FAR_FROM_LIMIT = 0.5
#: The error of a distance that is allowed for, in root mean squares of those found. With 3, a hundredth of a
#: hospital's pictures is computed again, and fewer than one in 10,000 has another caution than in fp32. With
#: the largest that was found it would be a thirtieth, which costs 6% of the throughput.
_DEVIATIONS_OF_DISTANCES = 3.0


def learn_precisions(
    card: ModelCard,
    weights: bytes,
    pictures: NDArray[np.uint8],
    statistics: Statistics | None = None,
    *,
    seed: int = 0,
    emulate: bool = False,
) -> dict[str, FasterPrecision]:
    """Return what the card must say of each faster number format. `statistics` tell the pictures' distances.

    `pictures` are (N, 224, 224, 3), best of patients that the model did not learn from. Whole numbers of 8
    bits are left out if OpenVINO is not installed, and bfloat16 if the device is slow in it, unless
    `emulate`. Too few pictures say nothing of any format.
    Raises ModelInvalid, ModelWeightsUnfit, DeviceUnusable.
    """
    if len(pictures) < _LEAST:
        return {}
    chance = np.random.default_rng(seed)
    shown = _varied(pictures, chance)
    exact = load(card, weights)
    truth = _measure(exact, shown, Precision.FP32, statistics)
    learnt: dict[str, FasterPrecision] = {}
    if emulate or Precision.BF16 in exact.precisions:
        some = chance.permutation(len(shown))[:_FEW]
        found = _measure(exact, shown[some], Precision.BF16, statistics)
        learnt["bf16"] = _learnt(truth.only(some), found)
    if find_spec("openvino") is not None:
        # Their import takes a second.
        from worker.runtime.openvino.ranges import learn_ranges
        from worker.runtime.openvino.runtime import load as load_openvino

        ranges = learn_ranges(card, weights, shown[::2])
        # For the measurement itself, any error will do.
        draft = card.model_copy(update={"precisions": {"int8": FasterPrecision(error=1, ranges=ranges)}})
        found = _measure(load_openvino(draft, weights), shown, Precision.INT8, statistics)
        learnt["int8"] = _learnt(truth, found, ranges)
    return learnt


def _varied(pictures: NDArray[np.uint8], chance: np.random.Generator) -> NDArray[np.uint8]:
    """Return a choice of pictures, followed by the same ones changed in geometry and intensity."""
    chosen = pictures[np.sort(chance.permutation(len(pictures))[: _PICTURES // 2])]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(chance.integers(2**31)))
        batch = torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 255
        changed = intensity(geometry(batch)).clamp(0, 1).permute(0, 2, 3, 1)
    return np.concatenate([chosen, (changed.numpy() * 255).round().astype(np.uint8)])


@dataclass(frozen=True, slots=True)
class _Found:
    """What a number format gives for pictures, float64, (N,)."""

    log_odds: NDArray[np.float64]
    #: Distances less the limit beyond which a picture is unfamiliar; None without statistics.
    beyond: NDArray[np.float64] | None

    def only(self, indices: NDArray[np.int64]) -> _Found:
        return _Found(self.log_odds[indices], None if self.beyond is None else self.beyond[indices])


def _measure(
    runtime: Runtime, pictures: NDArray[np.uint8], precision: Precision, statistics: Statistics | None
) -> _Found:
    outputs = outputs_of(runtime, pictures, precision)
    odds = [log_odds(float(one)) for one in positive_probability(runtime.card, outputs.probabilities)]
    if statistics is None:
        return _Found(np.array(odds), None)
    distances = [statistics.distance(one) for one in outputs.features]
    return _Found(np.array(odds), np.array(distances) - statistics.limit)


def _learnt(
    exact: _Found, found: _Found, ranges: Mapping[str, float] = MappingProxyType({})
) -> FasterPrecision:
    """Return what the card says of a format, from the same pictures in fp32 and in the format."""
    differences = _differences(exact.log_odds, found.log_odds, _FAR)
    error = max(_DEVIATIONS * _root_mean_square(differences), float(np.abs(differences).max()))
    moved = None
    if exact.beyond is not None and found.beyond is not None:
        beyond = _differences(exact.beyond, found.beyond, _FAR_FROM_LIMIT)
        moved = _rounded(_DEVIATIONS_OF_DISTANCES * _root_mean_square(beyond))
    return FasterPrecision(error=_rounded(error), ranges=dict(ranges), distance_error=moved)


def _differences(exact: NDArray[np.float64], found: NDArray[np.float64], far: float) -> NDArray[np.float64]:
    """Return the differences of pictures that are near doubt, of all if there are too few of these."""
    near = (found - exact)[np.minimum(np.abs(exact), np.abs(found)) < far]
    return near if len(near) >= _LEAST else found - exact


def _root_mean_square(differences: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(differences**2)))


def _rounded(error: float) -> float:
    """Return an error as a card has it. Equal numbers need a bound, too."""
    return round(max(error, 0.01), 3)
