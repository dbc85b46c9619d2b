"""ROC curves and their bands, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from training.evaluation.curves import precision_recall, roc
from training.evaluation.resampling import single_images


def simulated(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    positive = random.random(n) < 0.6
    return positive, np.round(random.normal(positive * 1.5, 1), 2)


def test_the_area_under_the_drawn_curve_is_the_auc() -> None:
    positive, score = simulated(150)
    curve = np.array(roc(positive, score, single_images(150)).curve)
    assert curve[0].tolist() == [0, 0]
    assert curve[-1].tolist() == [1, 1]
    assert auc(*curve.T) == pytest.approx(roc_auc_score(positive, score))


def test_the_band_holds_the_curve_and_narrows_with_more_patients() -> None:
    widths = []
    for n in (60, 600):
        positive, score = simulated(n)
        found = roc(positive, score, single_images(n))
        across, low, high = np.array(found.band).T
        curve = np.interp(across, *np.array(found.curve).T)
        assert ((low - 1e-9 <= curve) & (curve <= high + 1e-9)).mean() > 0.95
        widths.append((high - low).mean())
    assert widths[1] < widths[0] / 2


def test_the_band_counts_patients_and_not_images() -> None:
    positive, score = (np.tile(values, 9) for values in simulated(60))
    widths = []
    for groups in (single_images(540), np.tile(np.arange(60), 9)):
        _, low, high = np.array(roc(positive, score, groups).band).T
        widths.append((high - low).mean())
    assert widths[1] > 2 * widths[0]


def test_one_class_alone_has_no_curve() -> None:
    found = roc(np.ones(5, dtype=bool), np.linspace(0, 1, 5), single_images(5))
    assert (found.curve, found.band) == ([], [])
    assert precision_recall(np.zeros(5, dtype=bool), np.linspace(0, 1, 5)) == []


def test_precision_and_recall_are_those_of_scikit_learn() -> None:
    positive, score = simulated(100)
    recall, precision = np.array(precision_recall(positive, score)).T
    area = float((np.diff(recall) * precision[1:]).sum())
    assert area == pytest.approx(average_precision_score(positive, score))
