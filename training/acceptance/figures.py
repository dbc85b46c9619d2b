"""What a model measures on images of a site, beside what its card says of its own held-out images."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.models.card import MEASURES, ModelCard
from db.models.card import Measure as CardMeasure
from training.evaluation.measures import (
    ALPHA,
    Measure,
    area_under_roc,
    proportion,
    reliability,
)
from training.evaluation.resampling import draw_matrix, mean_bounds
from training.outcome import Answers, HeldOut

#: Probabilities nearer to 0 or 1 than this count as this near: their log odds are infinite.
_NEAREST = 1e-6

#: A subgroup's share of fewer images is not shown: it could identify patients.
SMALLEST_CELL = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """The images of one value of an attribute, such as `sex` and `female`."""

    attribute: str
    value: str
    #: None if there are fewer than 20 images.
    sensitivity: Measure | None
    specificity: Measure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How closely probabilities agree with the truth."""

    #: Mean squared error of P(PNEUMONIA) (Brier 1950).
    brier: float
    #: The intercept of a logistic regression of the truth with the log odds as offset: above 0 if pneumonia
    #: is more common than the probabilities say. 0 is perfect (Cox 1958).
    in_the_large: Measure
    #: The slope of a logistic regression on the log odds: below 1 if probabilities are too extreme.
    slope: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The measures of a model on images of a site."""

    n: int
    positive: int
    positive_patients: int
    negative_patients: int
    auc: Measure
    sensitivity: Measure
    specificity: Measure
    calibration: Calibration
    subgroups: tuple[Subgroup, ...]
    #: The card's measures on its own held-out images, by name; empty if it has none.
    card: dict[str, Measure]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def figures_of(answers: Answers, images: HeldOut, card: ModelCard) -> Figures:
    """Return what a model's answers on images of a site are worth."""
    positive, groups = images.positive, images.groups
    right = answers.called == positive
    return Figures(
        n=len(positive),
        positive=int(positive.sum()),
        positive_patients=len(np.unique(groups[positive])),
        negative_patients=len(np.unique(groups[~positive])),
        auc=area_under_roc(positive, answers.score, groups),
        sensitivity=_share(right, groups, positive),
        specificity=_share(right, groups, ~positive),
        calibration=_calibration(answers.probability, positive, groups),
        subgroups=tuple(_subgroups(right, images)),
        card=_of_card(card),
    )


def _share(right: NDArray[np.bool_], groups: NDArray[np.int64], which: NDArray[np.bool_]) -> Measure:
    """Return the share of right answers with its 95% interval.

    It is Wilson's or, if that is wider, the one of a bootstrap over patients, whose images are not
    independent. The bootstrap alone would be a point if all answers are right.
    """
    wilson = proportion(int(right[which].sum()), int(which.sum()))
    if wilson.value is None or wilson.low is None or wilson.high is None:
        return wilson
    if len(np.unique(groups[which])) == int(which.sum()):
        return wilson
    draws = draw_matrix(groups[which])
    low, high = mean_bounds(right[which].astype(np.float64), draws, (ALPHA / 2, 1 - ALPHA / 2))
    return replace(wilson, low=min(low, wilson.low), high=max(high, wilson.high))


def _calibration(
    probability: NDArray[np.float64], positive: NDArray[np.bool_], groups: NDArray[np.int64]
) -> Calibration:
    bounded = np.clip(probability, _NEAREST, 1 - _NEAREST)
    odds = np.log(bounded / (1 - bounded))
    return Calibration(
        brier=reliability(positive, probability).brier,
        in_the_large=_coefficient(positive, np.ones((len(odds), 1)), groups, offset=odds),
        slope=_coefficient(positive, np.column_stack([odds, np.ones(len(odds))]), groups),
    )


def _coefficient(
    positive: NDArray[np.bool_],
    columns: NDArray[np.float64],
    groups: NDArray[np.int64],
    offset: NDArray[np.float64] | None = None,
) -> Measure:
    """Return the first coefficient of a logistic regression; not known if the columns separate the classes.

    Its 95% interval knows that images of one patient are not independent (Liang and Zeger 1986).
    """
    import statsmodels.api as statsmodels
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    unknown = Measure(None, None, None)
    if positive.all() or not positive.any() or np.ptp(columns[:, 0]) == 0 != columns.shape[1] - 1:
        return unknown
    model = statsmodels.GLM(positive.astype(float), columns, statsmodels.families.Binomial(), offset=offset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PerfectSeparationWarning)
            warnings.simplefilter("error", RuntimeWarning)
            fitted = model.fit(cov_type="cluster", cov_kwds={"groups": groups})
    except (PerfectSeparationWarning, RuntimeWarning, np.linalg.LinAlgError, ValueError):
        return unknown
    low, high = fitted.conf_int(ALPHA)[0]
    found = (float(fitted.params[0]), float(low), float(high))
    return Measure(*found) if np.isfinite(found).all() else unknown


def _subgroups(right: NDArray[np.bool_], images: HeldOut) -> list[Subgroup]:
    found = []
    for attribute, values in images.subgroups.items():
        for value in sorted({value for value in values if value}):
            inside = np.array([one == value for one in values])
            shares = [
                _share(right, images.groups, inside & side)
                if (inside & side).sum() >= SMALLEST_CELL
                else None
                for side in (images.positive, ~images.positive)
            ]
            if any(shares):
                found.append(
                    Subgroup(attribute=attribute, value=value, sensitivity=shares[0], specificity=shares[1])
                )
    return found


def _of_card(card: ModelCard) -> dict[str, Measure]:
    validation = card.metrics.get("validation")
    named = validation if isinstance(validation, dict) else {}
    found = {}
    for name in MEASURES:
        one = CardMeasure.model_validate(named.get(name) or {})
        found[name] = Measure(one.value, one.low, one.high)
    return {name: one for name, one in found.items() if one.value is not None}
