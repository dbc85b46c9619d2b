"""The meaning of a model's output columns. Classes are found by name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from db.models.card import POSITIVE, ModelCard


def positive_probability(card: ModelCard, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return P(PNEUMONIA), (N,), of class probabilities (N, classes). Rounding never makes it exceed 1."""
    summed: NDArray[np.float32] = rows[:, card.positive_columns].sum(axis=1)
    return np.minimum(summed, np.float32(1.0))


def label_of(card: ModelCard, row: NDArray[np.float32], probability: float) -> str:
    """Return PNEUMONIA if the stored probability reaches the threshold, else the likeliest other class."""
    if probability >= card.threshold:
        return POSITIVE
    others = [index for index in range(len(row)) if index not in card.positive_columns]
    return card.classes[max(others, key=lambda index: float(row[index]))]


def types_of(card: ModelCard, row: NDArray[np.float32]) -> dict[str, float] | None:
    """Return the probability of each type of pneumonia, None if the model does not distinguish types."""
    if card.positives == (POSITIVE,):
        return None
    return {card.classes[index]: float(row[index]) for index in card.positive_columns}
