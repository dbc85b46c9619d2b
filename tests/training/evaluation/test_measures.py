"""Measures, against values from the literature, from scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.evaluation.measures import area_under_roc, measure, operating_point, proportion


def test_wilsons_interval_is_that_of_the_literature() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263.
    interval = proportion(81, 263)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert proportion(0, 0).value is None
    assert proportion(0, 10).low == pytest.approx(0, abs=1e-12)


def test_measures_of_a_small_table() -> None:
    positive = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    probability = np.array([0.9, 0.8, 0.5, 0.1, 0.7, 0.3, 0.2, 0.2, 0.1, 0.05])
    found = measure(positive, probability, 0.5)
    assert found.n == 10
    assert found.accuracy.value == pytest.approx(0.8)
    assert found.sensitivity.value == pytest.approx(3 / 4)
    assert found.specificity.value == pytest.approx(5 / 6)
    # 0.9, 0.8 beat all six; 0.5 beats five; 0.1 beats one and ties with one.
    assert found.auc.value == pytest.approx((6 + 6 + 5 + 1.5) / 24)


def test_the_interval_of_the_auc_holds_it_and_narrows_with_more_images() -> None:
    random = np.random.default_rng(1)
    widths = []
    for count in (60, 600):
        positive = random.random(count) < 0.5
        found = area_under_roc(positive, random.normal(positive, 1.0))
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_the_auc_is_that_of_scikit_learn_ties_included() -> None:
    random = np.random.default_rng(1)
    positive = random.random(300) < 0.4
    probability = np.round(random.normal(positive, 1.0), 1)
    assert area_under_roc(positive, probability).value == pytest.approx(roc_auc_score(positive, probability))


def test_images_of_one_patient_are_not_independent() -> None:
    random = np.random.default_rng(2)
    positive = random.random(100) < 0.5
    probability = random.normal(positive, 1.0)
    copies = np.tile(positive, 9), np.tile(probability, 9)
    widths = []
    for groups in (None, np.tile(np.arange(100), 9)):
        found = area_under_roc(*copies, groups)
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
    assert widths[1] > 2 * widths[0]


def test_one_class_alone_has_no_auc() -> None:
    found = measure(np.ones(5, dtype=bool), np.linspace(0, 1, 5), 0.5)
    assert found.auc.value is None
    assert found.specificity.value is None
    assert found.sensitivity.value == pytest.approx(3 / 5)


def test_the_operating_point_is_the_highest_that_reaches_the_target() -> None:
    positive = np.array([True] * 100 + [False] * 100)
    probability = np.concatenate([np.linspace(0.01, 1, 100), np.linspace(0, 0.5, 100)])
    threshold = operating_point(positive, probability, 0.95)
    assert (probability[positive] >= threshold).mean() == pytest.approx(0.95)
    assert (probability[positive] >= threshold + 1e-6).mean() < 0.95
