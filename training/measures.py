"""Accuracy, AUC, sensitivity and specificity with 95% confidence intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

#: Two-sided error of every interval.
ALPHA = 0.05

#: Enough bootstrap samples for the third decimal of a 95% interval.
BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Measure:
    """A value and its 95% interval; all None where no image could tell."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """How a model did on labelled images."""

    n: int
    accuracy: Measure
    auc: Measure
    sensitivity: Measure
    specificity: Measure
    threshold: float

    def named(self) -> dict[str, Measure]:
        """Return the measures by name."""
        return {
            "accuracy": self.accuracy,
            "AUC": self.auc,
            "sensitivity": self.sensitivity,
            "specificity": self.specificity,
        }

    def as_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


def proportion(successes: int, trials: int) -> Measure:
    """Return a proportion with Wilson's score interval (Wilson 1927)."""
    from statsmodels.stats.proportion import proportion_confint

    if trials == 0:
        return Measure(None, None, None)
    low, high = proportion_confint(successes, trials, alpha=ALPHA, method="wilson")
    return Measure(successes / trials, float(low), float(high))


def area_under_roc(positive: NDArray[np.bool_], probability: NDArray[np.float64]) -> Measure:
    """Return the AUC with a percentile bootstrap interval, stratified by class."""
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return Measure(None, None, None)
    random = np.random.default_rng(0)
    ones, zeros = np.flatnonzero(positive), np.flatnonzero(~positive)
    samples = []
    for _ in range(BOOTSTRAP_SAMPLES):
        drawn = np.concatenate([random.choice(ones, ones.size), random.choice(zeros, zeros.size)])
        samples.append(roc_auc_score(positive[drawn], probability[drawn]))
    low, high = np.quantile(samples, [ALPHA / 2, 1 - ALPHA / 2])
    return Measure(float(roc_auc_score(positive, probability)), float(low), float(high))


def measure(positive: NDArray[np.bool_], probability: NDArray[np.float64], threshold: float) -> Measures:
    """Compare P(PNEUMONIA) with the truth; at or above the threshold is called positive."""
    called = probability >= threshold
    return Measures(
        n=int(positive.size),
        accuracy=proportion(int((called == positive).sum()), int(positive.size)),
        auc=area_under_roc(positive, probability),
        sensitivity=proportion(int((called & positive).sum()), int(positive.sum())),
        specificity=proportion(int((~called & ~positive).sum()), int((~positive).sum())),
        threshold=threshold,
    )


def operating_point(
    positive: NDArray[np.bool_], probability: NDArray[np.float64], target_sensitivity: float
) -> float:
    """Return the highest threshold whose sensitivity on these images is at least the target's."""
    ranked = np.sort(probability[positive])[::-1]
    needed = int(np.ceil(target_sensitivity * ranked.size))
    return float(ranked[max(needed, 1) - 1])
