"""Paired tests of two models."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from training.evaluation.paired import compare_all, delong, mcnemar
from training.outcome import Answers


def simulated(n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    positive = random.random(n) < 0.6
    shared = random.normal(positive * 1.2, 1)
    one, other = (1 / (1 + np.exp(-(shared + random.normal(0, s, n)))) for s in (0.3, 1.2))
    return positive, one, other


def test_mcnemar_is_the_exact_binomial_for_few() -> None:
    assert mcnemar(2, 9) == pytest.approx(binomtest(2, 11).pvalue)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(50, 10) < 1e-5


def test_delong_agrees_with_brute_force() -> None:
    positive, one, other = simulated()

    def components(probability: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        ones, zeros = probability[positive], probability[~positive]
        order = (ones[:, None] > zeros) + 0.5 * (ones[:, None] == zeros)
        return order.mean(), order.mean(axis=1), order.mean(axis=0)

    (a, a1, a0), (b, b1, b0) = components(one), components(other)
    covariance = np.cov(a1, b1) / len(a1) + np.cov(a0, b0) / len(a0)
    z = (a - b) / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    from scipy.stats import norm

    found = delong(positive, one, other)
    assert found is not None
    assert found[0] == pytest.approx(a - b)
    assert found[1] == pytest.approx(2 * norm.sf(abs(z)), rel=1e-9)


def test_equal_models_differ_by_nothing_and_one_class_tells_nothing() -> None:
    positive, one, _ = simulated()
    assert delong(positive, one, one) == (0.0, 1.0)
    assert delong(np.ones(10, dtype=bool), one[:10], one[:10]) is None


def test_holm_corrects_over_the_pairs_and_the_sentence_says_so() -> None:
    positive, one, other = simulated()
    found = compare_all(
        positive, [Answers("A", one, 0.5), Answers("B", other, 0.5), Answers("C", one.copy(), 0.5)]
    )
    assert [(pair.one, pair.other) for pair in found] == [("A", "B"), ("A", "C"), ("B", "C")]
    raw = sorted(pair.mcnemar_p for pair in found)
    assert min(pair.mcnemar_holm for pair in found) == pytest.approx(min(1.0, raw[0] * 3))
    assert "that is noise" in found[1].says
    assert compare_all(positive, [Answers("A", one, 0.5)]) == []
