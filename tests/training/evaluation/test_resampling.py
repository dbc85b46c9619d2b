"""Bootstrap samples of patients."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.resampling import draw_matrix, draw_patients, mean_bounds, single_images


def test_images_of_one_patient_are_drawn_together_and_as_many_patients_as_there_are() -> None:
    groups = np.array([7, 7, 3, 3, 3, 9])
    for drawn in draw_patients(groups, 50):
        assert drawn[0] == drawn[1]
        assert drawn[2] == drawn[3] == drawn[4]
        assert drawn[0] + drawn[2] + drawn[5] == 3
    assert np.array_equal(draw_matrix(groups, 50), draw_matrix(groups, 50))


def test_the_bounds_of_a_mean_are_those_of_the_normal_distribution() -> None:
    values = np.random.default_rng(3).normal(0.2, 1, 500)
    low, high = mean_bounds(values, draw_matrix(single_images(500)), (0.025, 0.975))
    error = 1.96 * values.std() / np.sqrt(500)
    assert low == pytest.approx(values.mean() - error, abs=error / 5)
    assert high == pytest.approx(values.mean() + error, abs=error / 5)
