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


def predictive_values(
    positive: NDArray[np.bool_], probability: NDArray[np.float64], threshold: float
) -> tuple[Measure, Measure]:
    """Return PPV and NPV with Wilson's intervals, at the share of pneumonia among these images."""
    called = probability >= threshold
    return (
        proportion(int((called & positive).sum()), int(called.sum())),
        proportion(int((~called & ~positive).sum()), int((~called).sum())),
    )


def grouped_auc(
    positive: NDArray[np.bool_], probability: NDArray[np.float64], groups: NDArray[np.int64]
) -> Measure:
    """Return the AUC with a percentile bootstrap interval over patients, whose images are not independent.

    The AUC of a sample is the mean, over its pairs of one positive and one negative image, of whether they
    are in order, each image counting as often as its patient was drawn.
    """
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return Measure(None, None, None)
    names, patient = np.unique(groups, return_inverse=True)
    random = np.random.default_rng(0)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=BOOTSTRAP_SAMPLES)
    ones, zeros = probability[positive], probability[~positive]
    ordered = (ones[:, None] > zeros) + 0.5 * (ones[:, None] == zeros)
    of_ones = drawn[:, patient[positive]].astype(np.float64)
    of_zeros = drawn[:, patient[~positive]].astype(np.float64)
    pairs = of_ones.sum(axis=1) * of_zeros.sum(axis=1)
    samples = ((of_ones @ ordered) * of_zeros).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
    low, high = np.quantile(samples, [ALPHA / 2, 1 - ALPHA / 2])
    return Measure(float(roc_auc_score(positive, probability)), float(low), float(high))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images of similar probability."""

    probability: float
    observed: Measure
    n: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far probabilities can be taken at their word."""

    #: Mean squared error of P(PNEUMONIA) (Brier 1950).
    brier: float
    #: Mean distance of probability and share, over bins of equally many images.
    expected_error: float
    bins: tuple[ReliabilityBin, ...]


def calibration(positive: NDArray[np.bool_], probability: NDArray[np.float64], bins: int = 10) -> Calibration:
    """Return Brier score, expected calibration error and the bins of a reliability diagram."""
    order = np.argsort(probability, kind="stable")
    found = []
    for part in np.array_split(order, min(bins, len(order))):
        share = proportion(int(positive[part].sum()), len(part))
        found.append(ReliabilityBin(float(probability[part].mean()), share, len(part)))
    error = sum(abs(one.probability - (one.observed.value or 0.0)) * one.n for one in found) / len(order)
    brier = float(((probability - positive) ** 2).mean())
    return Calibration(brier, float(error), tuple(found))
