"""Paired tests: whether two models differ on the same images, or the difference is noise."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from training.evaluation.measures import ALPHA
from training.outcome import Answers

#: Discordant images below which McNemar's test is exact; above, the chi-squared form with continuity
#: correction is the same to two digits.
_EXACT_BELOW = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Two models on the same images."""

    one: str
    other: str
    n: int
    #: Images that only one of the two calls correctly.
    one_alone: int
    other_alone: int
    mcnemar_p: float
    #: AUC of one minus that of the other, and DeLong's p; None if a class has fewer than two images.
    auc_difference: float | None
    delong_p: float | None
    #: After Holm's correction over all pairs.
    mcnemar_holm: float
    delong_holm: float | None
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


def compare_all(positive: NDArray[np.bool_], answers: list[Answers]) -> list[Paired]:
    """Compare every pair of models, with Holm's correction (Holm 1979) over the pairs of each test."""
    pairs = list(combinations(answers, 2))
    if not pairs:
        return []
    counts, areas = [], []
    for one, other in pairs:
        right = [each.called == positive for each in (one, other)]
        counts.append((int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())))
        areas.append(delong(positive, one.probability, other.probability))
    raw = [mcnemar(*count) for count in counts]
    holm = _holm(raw)
    delongs = iter(_holm([area[1] for area in areas if area is not None]))
    found = []
    for (one, other), count, area, p, corrected in zip(pairs, counts, areas, raw, holm, strict=True):
        found.append(
            Paired(
                one=one.model,
                other=other.model,
                n=len(positive),
                one_alone=count[0],
                other_alone=count[1],
                mcnemar_p=p,
                auc_difference=None if area is None else area[0],
                delong_p=None if area is None else area[1],
                mcnemar_holm=corrected,
                delong_holm=None if area is None else next(delongs),
                says=_sentence(one.model, other.model, len(positive), count, corrected),
            )
        )
    return found


def _holm(values: list[float]) -> list[float]:
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(values, method="holm")[1]] if values else []


def _sentence(one: str, other: str, n: int, count: tuple[int, int], p: float) -> str:
    better = one if count[0] >= count[1] else other
    verdict = f"{better} is better" if p < ALPHA else "that is noise"
    return (
        f"{one} and {other} disagree about {sum(count)} of {n:,} images: {one} alone is right on {count[0]}, "
        f"{other} alone on {count[1]}; p = {p:.2g} after Holm: {verdict}."
    )
