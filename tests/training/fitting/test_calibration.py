"""Calibration on held-out images."""

from __future__ import annotations

import numpy as np
import pytest

from training.fitting.calibration import Calibration, calibrate, fit_temperature


def test_the_temperature_of_overconfident_logits_is_found() -> None:
    random = np.random.default_rng(2)
    true = random.normal(0, 2, 5000)
    targets = (random.random(5000) < 1 / (1 + np.exp(-true))).astype(np.int64)
    logits = np.stack([np.zeros(5000), 3 * true], axis=1).astype(np.float32)
    assert fit_temperature(logits, targets) == pytest.approx(3, rel=0.1)


def test_temperature_and_threshold_stay_without_a_target_sensitivity() -> None:
    logits, targets = np.zeros((4, 2), np.float32), np.array([0, 0, 1, 1])
    assert calibrate(logits, targets, ("NORMAL", "PNEUMONIA"), None) == Calibration(1.0, 0.5)
