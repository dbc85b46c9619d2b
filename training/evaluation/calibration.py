"""What validation data alone decides: temperature and operating point."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from training.evaluation.measures import operating_point
from training.recipe import Recipe


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the negative log-likelihood (Guo et al. 2017, section 4.2)."""
    from scipy.optimize import minimize_scalar

    scores, truth = torch.from_numpy(logits), torch.from_numpy(targets)

    def loss(log_temperature: float) -> float:
        scaled = scores / math.exp(log_temperature)
        return float(torch.nn.functional.cross_entropy(scaled, truth))

    # A temperature outside 0.05 to 20 says that the validation data cannot settle it.
    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return math.exp(float(best.x))


def calibrate(
    logits: NDArray[np.float32], targets: NDArray[np.int64], positive_columns: list[int], recipe: Recipe
) -> tuple[float, float, NDArray[np.float64]]:
    """Return temperature, threshold and calibrated probabilities (N, classes) of the held-out images.

    `logits` are (N, classes), `targets` class indices. The thesis' recipe leaves temperature and threshold
    at 1 and 0.5.
    """
    if recipe.target_sensitivity is None:
        return 1.0, 0.5, softmax(logits.astype(np.float64), axis=1)
    temperature = fit_temperature(logits, targets)
    probabilities: NDArray[np.float64] = softmax(logits.astype(np.float64) / temperature, axis=1)
    probability = probabilities[:, positive_columns].sum(axis=1)
    positive = np.isin(targets, positive_columns)
    return temperature, operating_point(positive, probability, recipe.target_sensitivity), probabilities
