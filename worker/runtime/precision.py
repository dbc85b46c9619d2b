"""Adaptive precision: what a fast number format leaves in doubt is computed again in a better one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from db.models.card import ModelCard
from worker.runtime.classes import positive_probability
from worker.runtime.protocol import Precision, Runtime

#: The largest difference from single precision that a stored P(PNEUMONIA) may have.
TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """Class probabilities of one picture: float32, (classes,)."""

    values: NDArray[np.float32]
    precision: Precision


def ladder(runtime: Runtime) -> tuple[Precision, ...]:
    """Return the number formats to use, fastest first; the last is single precision.

    A faster one is used if the device computes it fast and the card says how far it moves the model's log
    odds.
    """
    faster = (one for one in Precision if one in runtime.precisions and one in runtime.card.precisions)
    return (*faster, Precision.FP32)


def next_precision(card: ModelCard, precisions: tuple[Precision, ...], row: Row) -> Precision | None:
    """Return the number format in which to compute a picture again, None if its row is good enough.

    It is the fastest later one of `precisions` that would leave no doubt about these log odds.
    """
    found = log_odds(float(positive_probability(card, row.values[None])[0]))
    if _settles(card, row.precision, found):
        return None
    later = precisions[precisions.index(row.precision) + 1 :]
    return next(one for one in later if one is Precision.FP32 or _settles(card, one, found))


def log_odds(probability: float) -> float:
    """Return the log odds of a probability: finite for 0 and 1, NaN for NaN."""
    tiny = 1e-7
    bounded = np.clip(probability, tiny, 1 - tiny)
    return float(np.log(bounded) - np.log1p(-bounded))


def _settles(card: ModelCard, precision: Precision, found: float) -> bool:
    """Tell whether log odds in a number format give the label and, within TOLERANCE, the probability.

    Those of single precision lie within the card's error around them. NaN settles nothing.
    """
    if precision is Precision.FP32:
        return True
    error, threshold = card.precisions[precision].error, log_odds(card.threshold)
    low, high = found - error, found + error
    same_label = low >= threshold or high < threshold
    return same_label and max(_chance(high) - _chance(found), _chance(found) - _chance(low)) <= TOLERANCE


def _chance(odds: float) -> float:
    return 1 / (1 + float(np.exp(-odds)))
