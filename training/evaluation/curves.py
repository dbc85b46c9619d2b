"""The ROC curve with its band, and the curve of precision and recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.measures import ALPHA
from training.evaluation.resampling import draw_patients

#: The most points of a drawn curve, and the points of a band.
_POINTS, _BAND_POINTS = 200, 101

Points = list[list[float]]


@dataclass(frozen=True, slots=True)
class Roc:
    """A ROC curve; empty if there is only one class."""

    #: (1 - specificity, sensitivity).
    curve: Points
    #: (1 - specificity, lowest, highest sensitivity): pointwise 95%.
    band: Points


def roc(positive: NDArray[np.bool_], score: NDArray[np.float64], groups: NDArray[np.int64]) -> Roc:
    """Return a ROC curve with the pointwise 95% band of a bootstrap over patients.

    Curves of samples are averaged vertically, at fixed specificities (Fawcett 2006, section 8).
    """
    if positive.all() or not positive.any():
        return Roc([], [])
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    truth = positive[order]
    grid = np.linspace(0, 1, _BAND_POINTS)
    samples = []
    for drawn in draw_patients(groups):
        counts = drawn[order]
        along, across = _shares(counts * truth, ends), _shares(counts * ~truth, ends)
        if along[-1] and across[-1]:
            samples.append(np.interp(grid, across, along))
    low, high = np.quantile(samples, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    curve = _thinned(_shares(~truth, ends), _shares(truth, ends))
    return Roc(curve, [[float(x), float(a), float(b)] for x, a, b in zip(grid, low, high, strict=True)])


def _shares(counts: NDArray[np.int_ | np.bool_], ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the share that is reached at each threshold, from 0 on; all 0 if nothing counts."""
    reached = np.concatenate([[0.0], np.cumsum(counts)[ends]])
    return reached / (reached[-1] or 1)


def precision_recall(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> Points:
    """Return (recall, precision) by rising recall; empty without positive images."""
    from sklearn.metrics import precision_recall_curve

    if not positive.any():
        return []
    precision, recall, _ = precision_recall_curve(positive, score)
    return _thinned(recall[::-1], precision[::-1])


def _thinned(across: NDArray[np.float64], along: NDArray[np.float64]) -> Points:
    kept = np.unique(np.linspace(0, len(across) - 1, _POINTS).round().astype(int))
    return [[float(across[index]), float(along[index])] for index in kept]
