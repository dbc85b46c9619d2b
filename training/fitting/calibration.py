"""Calibration: a model's temperature and threshold, fitted on held-out images alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from training.data.classes import positive_columns
from training.evaluation.measures import operating_point

#: Temperatures between which the best one is searched. Validation data do not determine one outside.
_BOUNDS = (0.05, 20.0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a model's logits become probabilities and labels."""

    temperature: float = 1.0
    threshold: float = 0.5

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return calibrated probabilities (N, classes) of logits (N, classes)."""
        return _probabilities(logits, self.temperature)


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the negative log-likelihood (Guo et al. 2017, section 4.2)."""
    from scipy.optimize import minimize_scalar

    scores, truth = torch.from_numpy(logits), torch.from_numpy(targets)

    def loss(log_temperature: float) -> float:
        scaled = scores / math.exp(log_temperature)
        return float(torch.nn.functional.cross_entropy(scaled, truth))

    low, high = (math.log(bound) for bound in _BOUNDS)
    return math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def calibrate(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    classes: tuple[str, ...],
    target_sensitivity: float | None,
) -> Calibration:
    """Return temperature and threshold from logits (N, classes) and class indices (N,) of held-out images.

    Without a target sensitivity, as in the thesis, they stay at 1 and 0.5.
    """
    if target_sensitivity is None:
        return Calibration()
    columns = positive_columns(classes)
    temperature = fit_temperature(logits, targets)
    probability = _probabilities(logits, temperature)[:, columns].sum(axis=1)
    threshold = operating_point(np.isin(targets, columns), probability, target_sensitivity)
    return Calibration(temperature, threshold)


def _probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    found: NDArray[np.float64] = softmax(logits.astype(np.float64) / temperature, axis=1)
    return found
