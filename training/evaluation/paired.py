"""Paired tests: whether two models differ on the same images, or the difference is noise."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from db.text import counted
from training.evaluation.measures import ALPHA, Measure, levels, ordered_pairs
from training.evaluation.resampling import draw_matrix, draw_patients, mean_bounds
from training.outcome import Answers

#: Discordant images below which McNemar's test is exact; above, the chi-squared form with continuity
#: correction is the same to two digits.
_EXACT_BELOW = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Two models on the same images.

    A difference is more than noise if the test says so after Holm's correction, and the interval, which knows
    that images of one patient are not independent, does not contain 0.
    """

    one: str
    other: str
    n: int
    #: Images that only one of the two calls correctly.
    one_alone: int
    other_alone: int
    #: Accuracy of one minus that of the other, with the 95% interval of a bootstrap over patients.
    accuracy_difference: Measure
    mcnemar_p: float
    #: AUC of one minus that of the other, in the same way, and DeLong's p; None if a class has fewer than two
    #: images.
    auc_difference: Measure | None
    delong_p: float | None
    #: After Holm's correction over all pairs.
    mcnemar_holm: float
    delong_holm: float | None
    #: The model whose answers are better, or whose AUC is higher, by more than noise; None if it is noise.
    better_answers: str | None
    higher_auc: str | None
    says: str


def mcnemar(one_alone: int, other_alone: int) -> float:
    """Return the two-sided p of McNemar's test (McNemar 1947)."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    table = [[0, one_alone], [other_alone, 0]]
    if one_alone + other_alone == 0:
        return 1.0
    return min(1.0, float(test(table, exact=one_alone + other_alone < _EXACT_BELOW).pvalue))


def delong(
    positive: NDArray[np.bool_], one: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Return the difference of two correlated AUCs and its two-sided p.

    `one` and `other` are probabilities (N,) of the same images. DeLong et al. 1988, by the midrank algorithm
    of Sun and Xu 2014. None if a class has fewer than two images.
    """
    from scipy.stats import norm, rankdata

    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        return None
    areas, by_positive, by_negative = [], [], []
    for probability in (one, other):
        ones, zeros = probability[positive], probability[~positive]
        both = rankdata(np.concatenate([ones, zeros]))
        areas.append((both[:m].sum() / m - (m + 1) / 2) / n)
        by_positive.append((both[:m] - rankdata(ones)) / n)
        by_negative.append(1 - (both[m:] - rankdata(zeros)) / m)
    covariance = np.cov(by_positive) / m + np.cov(by_negative) / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    difference = float(areas[0] - areas[1])
    if variance <= 1e-18:
        return difference, 1.0 if abs(difference) < 1e-12 else 0.0
    return difference, float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def auc_difference(
    positive: NDArray[np.bool_],
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    groups: NDArray[np.int64],
) -> tuple[Measure, float] | None:
    """Return the difference of two AUCs with its 95% interval, and DeLong's p.

    The interval is that of a bootstrap over patients. None if a class has fewer than two images.
    """
    return _auc_difference(positive, (one, other), _area_samples(positive, [one, other], groups))


def _area_samples(
    positive: NDArray[np.bool_], scores: list[NDArray[np.float64]], groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the AUC of each model in each bootstrap sample of patients: (models, samples)."""
    ranks = [levels(score) for score in scores]
    samples = [
        [ordered_pairs(level, drawn * positive, drawn * ~positive) for level in ranks]
        for drawn in draw_patients(groups)
    ]
    return np.array(samples).T


def _auc_difference(
    positive: NDArray[np.bool_],
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    samples: NDArray[np.float64],
) -> tuple[Measure, float] | None:
    found = delong(positive, *scores)
    if found is None:
        return None
    low, high = np.nanquantile(samples[0] - samples[1], [ALPHA / 2, 1 - ALPHA / 2])
    return Measure(found[0], float(low), float(high)), found[1]


def is_noise(difference: Measure | None, p: float | None) -> bool:
    """Return whether a difference is noise: not significant, or its interval contains 0."""
    if difference is None or difference.low is None or difference.high is None:
        return True
    return p is None or p >= ALPHA or difference.low <= 0 <= difference.high


def compare_all(
    positive: NDArray[np.bool_], answers: list[Answers], groups: NDArray[np.int64]
) -> list[Paired]:
    """Compare every pair of models, with Holm's correction (Holm 1979) over the pairs of each test."""
    pairs = list(combinations(range(len(answers)), 2))
    if not pairs:
        return []
    draws, samples = draw_matrix(groups), _area_samples(positive, [one.score for one in answers], groups)
    both = [(answers[first], answers[second]) for first, second in pairs]
    counts = [_counts(positive, one, other, draws) for one, other in both]
    areas = [
        _auc_difference(positive, (one.score, other.score), samples[list(pair)])
        for pair, (one, other) in zip(pairs, both, strict=True)
    ]
    raw = [mcnemar(*count) for count, _ in counts]
    delongs = iter(_holm([area[1] for area in areas if area is not None]))
    found = []
    for index, ((one, other), area, p) in enumerate(zip(both, areas, _holm(raw), strict=True)):
        count, accuracy = counts[index]
        difference = None if area is None else area[0]
        corrected = None if area is None else next(delongs)
        better = None if is_noise(accuracy, p) else _larger(one, other, accuracy)
        found.append(
            Paired(
                one=one.model,
                other=other.model,
                n=len(positive),
                one_alone=count[0],
                other_alone=count[1],
                accuracy_difference=accuracy,
                mcnemar_p=raw[index],
                auc_difference=difference,
                delong_p=None if area is None else area[1],
                mcnemar_holm=p,
                delong_holm=corrected,
                better_answers=better,
                higher_auc=None if is_noise(difference, corrected) else _larger(one, other, difference),
                says=_sentence(one.model, other.model, len(positive), count, p, better),
            )
        )
    return found


def _counts(
    positive: NDArray[np.bool_], one: Answers, other: Answers, draws: NDArray[np.float32]
) -> tuple[tuple[int, int], Measure]:
    """Return on how many images each of two models alone is right, and the difference of their accuracies."""
    right = [each.called == positive for each in (one, other)]
    change = right[0].astype(np.float64) - right[1].astype(np.float64)
    low, high = mean_bounds(change, draws, (ALPHA / 2, 1 - ALPHA / 2))
    count = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return count, Measure(float(change.mean()), low, high)


def _larger(one: Answers, other: Answers, difference: Measure | None) -> str | None:
    if difference is None or not difference.value:
        return None
    return one.model if difference.value > 0 else other.model


def _holm(values: list[float]) -> list[float]:
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(values, method="holm")[1]] if values else []


def p_text(p: float) -> str:
    """Return a p-value with two digits, or as less than 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _sentence(one: str, other: str, n: int, count: tuple[int, int], p: float, better: str | None) -> str:
    verdict = "that is noise" if better is None else f"{better} is better"
    return (
        f"{one} and {other} disagree about {sum(count)} of {counted(n, 'image')}: "
        f"{one} alone is right on {count[0]}, {other} alone on {count[1]}; {p_text(p)} after Holm: {verdict}."
    )
