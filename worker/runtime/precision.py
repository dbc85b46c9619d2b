"""Adaptive precision: what a fast number format leaves in doubt is computed again in a better one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.runtime.classes import positive_probability
from worker.runtime.protocol import Output, Precision, Runtime
from worker.trust.familiarity import Statistics

#: The largest difference from single precision that a stored P(PNEUMONIA) may have.
TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to screen with."""

    runtime: Runtime
    #: What tells how familiar a picture is; None if the model cannot tell.
    statistics: Statistics | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one picture from a forward pass."""

    #: Class probabilities, float32, (classes,).
    values: NDArray[np.float32]
    precision: Precision
    #: The distance from the training hospital's pictures (`worker.trust.familiarity`), None if it is unknown.
    distance: float | None = None


def row_of(model: LoadedModel, output: Output, precision: Precision) -> Row:
    """Return what the output of a picture alone says of it."""
    distance = None if model.statistics is None else model.statistics.distance(output.features)
    return Row(output.probabilities, precision, distance)


def ladder(runtime: Runtime) -> tuple[Precision, ...]:
    """Return the number formats to use, fastest first; the last is single precision.

    A faster one is used if the device computes it fast and the card says how far it moves the model's log
    odds.
    """
    faster = (one for one in Precision if one in runtime.precisions and one in runtime.card.precisions)
    return (*faster, Precision.FP32)


def next_precision(model: LoadedModel, precisions: tuple[Precision, ...], row: Row) -> Precision | None:
    """Return the number format in which to compute a picture again, None if its row is good enough.

    It is the fastest later one of `precisions` that would leave no doubt about a row like this.
    """
    if _settles(model, row.precision, row):
        return None
    later = precisions[precisions.index(row.precision) + 1 :]
    return next(one for one in later if one is Precision.FP32 or _settles(model, one, row))


def log_odds(probability: float) -> float:
    """Return the log odds of a probability: finite for 0 and 1, NaN for NaN."""
    tiny = 1e-7
    bounded = np.clip(probability, tiny, 1 - tiny)
    return float(np.log(bounded) - np.log1p(-bounded))


def _settles(model: LoadedModel, precision: Precision, row: Row) -> bool:
    """Tell whether a row in a number format gives label, cautions and, within TOLERANCE, probability.

    Those of single precision lie within the card's errors around it. NaN settles nothing.
    """
    if precision is Precision.FP32:
        return True
    card = model.runtime.card
    error, threshold = card.precisions[precision].error, log_odds(card.threshold)
    found = log_odds(float(positive_probability(card, row.values[None])[0]))
    low, high = found - error, found + error
    same_label = low >= threshold or high < threshold
    near = max(_chance(high) - _chance(found), _chance(found) - _chance(low)) <= TOLERANCE
    return same_label and near and _same_familiarity(model, precision, row)


def _same_familiarity(model: LoadedModel, precision: Precision, row: Row) -> bool:
    """Tell whether single precision finds a picture unfamiliar if, and only if, this number format does."""
    if model.statistics is None or row.distance is None:
        return True
    error = model.runtime.card.precisions[precision].distance_error
    return error is not None and abs(row.distance - model.statistics.limit) > error


def _chance(odds: float) -> float:
    return 1 / (1 + float(np.exp(-odds)))
