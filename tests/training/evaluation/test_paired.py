"""Paired tests of two models."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from training.evaluation.measures import Measure
from training.evaluation.paired import auc_difference, compare_all, delong, is_noise, mcnemar, p_text
from training.evaluation.resampling import single_images
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
    answers = [Answers("A", one, 0.5), Answers("B", other, 0.5), Answers("C", one.copy(), 0.5)]
    found = compare_all(positive, answers, single_images(300))
    assert [(pair.one, pair.other) for pair in found] == [("A", "B"), ("A", "C"), ("B", "C")]
    raw = sorted(pair.mcnemar_p for pair in found)
    assert min(pair.mcnemar_holm for pair in found) == pytest.approx(min(1.0, raw[0] * 3))
    assert "that is noise" in found[1].says
    assert (found[1].better_answers, found[1].higher_auc) == (None, None)
    assert compare_all(positive, [Answers("A", one, 0.5)], single_images(300)) == []


def test_a_single_image_is_counted_in_the_singular() -> None:
    answers = [Answers("A", np.array([0.9]), 0.5), Answers("B", np.array([0.1]), 0.5)]
    (found,) = compare_all(np.array([True]), answers, single_images(1))
    assert "disagree about 1 of 1 image: A alone is right on 1" in found.says


def test_a_difference_of_many_images_is_found_with_its_direction() -> None:
    positive, one, other = simulated(2000)
    (found,) = compare_all(positive, [Answers("B", other, 0.5), Answers("A", one, 0.5)], single_images(2000))
    assert (found.better_answers, found.higher_auc) == ("A", "A")
    assert found.accuracy_difference.value == pytest.approx((found.one_alone - found.other_alone) / 2000)
    assert found.accuracy_difference.high is not None
    assert found.accuracy_difference.high < 0
    assert "A is better" in found.says


def test_copies_of_one_patients_images_make_no_difference_of_noise() -> None:
    positive = np.arange(60) % 2 == 0
    right = np.ones((2, 60), dtype=bool)
    right[0, 6:9] = right[1, :6] = right[:, 20:24] = False
    copies = np.tile(positive, 12)
    answers = [
        Answers(name, np.tile(np.where(correct == positive, 0.9, 0.1), 12), 0.5)
        for name, correct in zip("AB", right, strict=True)
    ]
    (alone,) = compare_all(copies, answers, single_images(720))
    assert alone.better_answers == "A"
    (grouped,) = compare_all(copies, answers, np.tile(np.arange(60), 12))
    assert grouped.mcnemar_holm < 0.001
    assert grouped.better_answers is None, "the copies of few patients count as evidence"
    assert "that is noise" in grouped.says


def test_an_interval_that_contains_0_or_a_large_p_is_noise() -> None:
    assert is_noise(Measure(0.1, -0.01, 0.2), 0.001)
    assert is_noise(Measure(0.1, 0.01, 0.2), 0.06)
    assert is_noise(None, None)
    assert not is_noise(Measure(-0.1, -0.2, -0.01), 0.04)


def test_the_interval_of_an_auc_difference_holds_it() -> None:
    positive, one, other = simulated()
    found = auc_difference(positive, one, other, single_images(300))
    assert found is not None
    difference, p = found
    assert difference.value is not None
    assert difference.low is not None
    assert difference.high is not None
    assert difference.low < difference.value < difference.high
    assert (p < 0.05) == (difference.low > 0)
    assert auc_difference(np.ones(10, dtype=bool), one[:10], one[:10], single_images(10)) is None


def test_small_p_values_are_not_written_with_exponents() -> None:
    assert [p_text(value) for value in (1e-9, 0.0011, 0.04)] == ["p < 0.001", "p = 0.0011", "p = 0.04"]
