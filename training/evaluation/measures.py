"""Measures of a classifier, with 95% confidence intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.resampling import draw_patients, single_images

#: Two-sided error of every interval.
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Measure:
    """A value and its 95% interval; all None if there were no images to measure it on."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The measures of a model on labelled images."""

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


def area_under_roc(
    positive: NDArray[np.bool_], probability: NDArray[np.float64], groups: NDArray[np.int64] | None = None
) -> Measure:
    """Return the AUC with a percentile bootstrap interval over patients, whose images are not independent.

    Without groups, each image is a patient of its own. The AUC of a sample is the share of its pairs (one
    positive and one negative image) that are in order. Each image counts as often as its patient was drawn.
    """
    if positive.all() or not positive.any():
        return Measure(None, None, None)
    level = levels(probability)
    samples = [
        ordered_pairs(level, drawn * positive, drawn * ~positive)
        for drawn in draw_patients(single_images(positive.size) if groups is None else groups)
    ]
    low, high = np.nanquantile(samples, [ALPHA / 2, 1 - ALPHA / 2])
    return Measure(ordered_pairs(level, positive, ~positive), float(low), float(high))


def levels(probability: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the rank of each probability among the different ones: (N,), from 0."""
    return np.unique(probability, return_inverse=True)[1]


def ordered_pairs(
    level: NDArray[np.intp], ones: NDArray[np.int_ | np.bool_], zeros: NDArray[np.int_ | np.bool_]
) -> float:
    """Return the share of pairs in order, where a tie counts half; NaN without pairs.

    `ones` and `zeros` say how often each image counts as a positive and as a negative one.
    """
    of_ones, of_zeros = np.bincount(level, ones), np.bincount(level, zeros)
    pairs = of_ones.sum() * of_zeros.sum()
    return float((of_ones * (of_zeros.cumsum() - of_zeros / 2)).sum() / pairs) if pairs else float("nan")


def measure(positive: NDArray[np.bool_], probability: NDArray[np.float64], threshold: float) -> Measures:
    """Compare P(PNEUMONIA) with the truth; an image at or above the threshold is called positive."""
    sensitivity, specificity, accuracy = rates(positive, probability >= threshold)
    return Measures(
        n=int(positive.size),
        accuracy=accuracy,
        auc=area_under_roc(positive, probability),
        sensitivity=sensitivity,
        specificity=specificity,
        threshold=threshold,
    )


def operating_point(
    positive: NDArray[np.bool_], probability: NDArray[np.float64], target_sensitivity: float
) -> float:
    """Return the highest threshold whose sensitivity on these images is at least the target."""
    ranked = np.sort(probability[positive])[::-1]
    needed = int(np.ceil(target_sensitivity * ranked.size))
    return float(ranked[max(needed, 1) - 1])


def predictive_values(positive: NDArray[np.bool_], called: NDArray[np.bool_]) -> tuple[Measure, Measure]:
    """Return PPV and NPV with Wilson's intervals, at the share of pneumonia among these images."""
    return (
        proportion(int((called & positive).sum()), int(called.sum())),
        proportion(int((~called & ~positive).sum()), int((~called).sum())),
    )


def rates(positive: NDArray[np.bool_], called: NDArray[np.bool_]) -> tuple[Measure, Measure, Measure]:
    """Return sensitivity, specificity and accuracy with Wilson's intervals."""
    return (
        proportion(int((called & positive).sum()), int(positive.sum())),
        proportion(int((~called & ~positive).sum()), int((~positive).sum())),
        proportion(int((called == positive).sum()), int(positive.size)),
    )


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images of similar probability."""

    probability: float
    observed: Measure
    n: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """How closely probabilities agree with observed shares."""

    #: Mean squared error of P(PNEUMONIA) (Brier 1950).
    brier: float
    #: Mean distance of probability and share, over bins of equally many images.
    expected_error: float
    bins: tuple[ReliabilityBin, ...]


def reliability(positive: NDArray[np.bool_], probability: NDArray[np.float64], bins: int = 10) -> Reliability:
    """Return Brier score, expected calibration error and the bins of a reliability diagram."""
    order = np.argsort(probability, kind="stable")
    found = []
    for part in np.array_split(order, min(bins, len(order))):
        share = proportion(int(positive[part].sum()), len(part))
        found.append(ReliabilityBin(float(probability[part].mean()), share, len(part)))
    error = sum(abs(one.probability - (one.observed.value or 0.0)) * one.n for one in found) / len(order)
    brier = float(((probability - positive) ** 2).mean())
    return Reliability(brier, float(error), tuple(found))
