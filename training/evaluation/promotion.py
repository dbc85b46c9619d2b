"""The promotion rules: what a challenger must show against the champion on the same held-out images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from db.errors import PneumoscreenError
from training.evaluation.measures import levels, ordered_pairs
from training.evaluation.resampling import draw_matrix, draw_patients, mean_bounds
from training.outcome import Answers, HeldOut

#: The most by which the challenger may be worse, with 95% confidence (one-sided). Sensitivity matters more.
SENSITIVITY_MARGIN = 0.02
SPECIFICITY_MARGIN = 0.05

#: The most that the AUC at a former site may fall by: as measured, and with 95% confidence (one-sided). The
#: threshold is fitted for the new site, so sensitivity and specificity at the former one decide nothing.
FORMER_LOSS, FORMER_MARGIN = 0.003, 0.01

#: A subgroup with fewer images is not tested.
FEWEST = 20

_SAMPLES = 2000
_ONE_SIDED = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of one rule."""

    rule: str
    passed: bool
    #: Challenger minus champion, with its one-sided 95% bounds; None if there is nothing to compare.
    difference: float | None
    low: float | None
    high: float | None
    #: The result in a sentence.
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether a challenger may replace the champion, and why."""

    challenger: str
    champion: str
    passed: bool
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> list[str]:
        """The rules that failed, or a sentence that says that every rule is met."""
        failed = [check.says for check in self.checks if not check.passed]
        return failed or [
            "not inferior in sensitivity and specificity, not worse in calibration or a subgroup"
        ]


@dataclass(frozen=True, slots=True)
class Site:
    """The answers of both models on held-out images of the site that the champion learned from."""

    images: HeldOut
    challenger: Answers
    champion: Answers


@dataclass(frozen=True, slots=True)
class Challenge:
    """The comparison of a challenger with the champion on the same images."""

    decision: Decision
    #: The champion's answers on the held-out images; None if it cannot be used here.
    champion: Answers | None
    #: The answers of both at the former site; None if its pictures are not here.
    former: Site | None = None


def decide(
    challenger: Answers,
    champion: Answers,
    held_out: HeldOut,
    *,
    former: Site | None = None,
    wanted: float | None = None,
) -> Decision:
    """Compare a challenger with the champion on the same images.

    It passes if it is not inferior in sensitivity and specificity by the margins above, and not significantly
    worse in calibration (Brier score) or in any subgroup of 20 images or more; at a former site, if its AUC
    is not inferior. A sensitivity that a person asked for, `wanted`, is enough, even if the champion's is
    higher. Bounds come from a bootstrap over patients.
    """
    pair = _Pair(challenger, champion, held_out.positive, draw_matrix(held_out.groups, _SAMPLES))
    checks = [
        _sensitive_enough(pair, wanted),
        _not_inferior("specificity", pair, ~pair.positive, SPECIFICITY_MARGIN),
        _calibration(pair),
    ]
    for attribute, values in held_out.subgroups.items():
        for value in sorted({value for value in values if value}):
            inside = np.array([one == value for one in values])
            for name, side in (("sensitivity", pair.positive), ("specificity", ~pair.positive)):
                if (inside & side).sum() >= FEWEST:
                    checks.append(_not_worse(f"{name}, {attribute} {value}", pair, inside & side))
    if former is not None:
        checks.append(_not_forgotten(former))
    return Decision(
        challenger=challenger.model,
        champion=champion.model,
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
    )


def outdated(decision: Decision) -> Decision:
    """Return a negative decision: the challenger was compared with a model that is no longer champion."""
    says = "another model became champion meanwhile, and the challenger was not compared with that one"
    check = Check(rule="champion", passed=False, difference=None, low=None, high=None, says=says)
    return replace(decision, passed=False, checks=(*decision.checks, check))


def without_familiarity(decision: Decision) -> Decision:
    """Return a negative decision: only the champion tells which pictures are unfamiliar."""
    says = "it cannot tell whether a picture is unfamiliar, as the champion can: too few pictures to learn it"
    check = Check(rule="familiarity", passed=False, difference=None, low=None, high=None, says=says)
    return replace(decision, passed=False, checks=(*decision.checks, check))


def incomparable(challenger: str, champion: str, reason: PneumoscreenError) -> Decision:
    """Return a negative decision: the champion cannot be used here, so nothing was compared with it."""
    says = f"no comparison with the champion is possible: {reason.code}"
    check = Check(rule="champion", passed=False, difference=None, low=None, high=None, says=says)
    return Decision(challenger=challenger, champion=champion, passed=False, checks=(check,))


@dataclass(frozen=True, slots=True)
class _Pair:
    """The answers of both models, the truth, and how often each image counts in each bootstrap sample."""

    challenger: Answers
    champion: Answers
    positive: NDArray[np.bool_]
    #: float32, (samples, N).
    draws: NDArray[np.float32]

    def more_right(self) -> NDArray[np.float64]:
        """Return 1 for an image that only the challenger calls correctly, -1 if only the champion, else 0."""
        right = [answers.called == self.positive for answers in (self.challenger, self.champion)]
        return right[0].astype(np.float64) - right[1].astype(np.float64)

    def bounds(self, change: NDArray[np.float64], which: NDArray[np.bool_]) -> tuple[float, float, float]:
        """Return the mean change per image among `which`, and its one-sided 95% bounds."""
        if not which.any():
            return 0.0, -1.0, 1.0  # nothing is known
        low, high = mean_bounds(change[which], self.draws[:, which], (_ONE_SIDED, 1 - _ONE_SIDED))
        return float(change[which].mean()), low, high


def _not_inferior(name: str, pair: _Pair, which: NDArray[np.bool_], margin: float) -> Check:
    value, low, high = pair.bounds(pair.more_right(), which)
    passed = low > -margin
    says = f"{name} {value:+.3f} ({low:+.3f} to {high:+.3f}), allowed {-margin:+.3f}"
    if not passed:
        says += ": inferior" if high < 0 else ": too few images to rule out that it is inferior"
    return Check(rule=name, passed=passed, difference=value, low=low, high=high, says=says)


def _sensitive_enough(pair: _Pair, wanted: float | None) -> Check:
    check = _not_inferior("sensitivity", pair, pair.positive, SENSITIVITY_MARGIN)
    if check.passed or wanted is None or not pair.positive.any():
        return check
    found = pair.challenger.called[pair.positive].astype(np.float64)
    low, _ = mean_bounds(found, pair.draws[:, pair.positive], (_ONE_SIDED, 1 - _ONE_SIDED))
    says = f"sensitivity {found.mean():.3f} (at least {low:.3f}), wanted {wanted:.3f}"
    return replace(check, passed=low > wanted - SENSITIVITY_MARGIN, says=f"{check.says}; {says}")


def _not_forgotten(former: Site) -> Check:
    """Return whether the AUC at the former site is not inferior (paired bootstrap over patients)."""
    positive = former.images.positive
    levels_of = [levels(one.score) for one in (former.challenger, former.champion)]
    value = _difference(levels_of, positive, np.ones(len(positive), dtype=np.intp))
    samples = [_difference(levels_of, positive, drawn) for drawn in draw_patients(former.images.groups)]
    low, high = (float(one) for one in np.nanquantile(samples, (_ONE_SIDED, 1 - _ONE_SIDED)))
    passed = value >= -FORMER_LOSS and low > -FORMER_MARGIN
    says = (
        f"AUC at the former site {value:+.4f} ({low:+.4f} to {high:+.4f}), allowed {-FORMER_LOSS:+.3f}, and "
        f"{-FORMER_MARGIN:+.3f} with certainty"
    )
    if not passed:
        says += ": forgotten" if value < -FORMER_LOSS else ": too few images to rule out that it is forgotten"
    return Check(rule="former site", passed=passed, difference=value, low=low, high=high, says=says)


def _difference(
    ranks: list[NDArray[np.intp]], positive: NDArray[np.bool_], counts: NDArray[np.intp]
) -> float:
    one, other = (ordered_pairs(rank, counts * positive, counts * ~positive) for rank in ranks)
    return one - other


def _calibration(pair: _Pair) -> Check:
    truth = pair.positive.astype(np.float64)
    change = (pair.challenger.probability - truth) ** 2 - (pair.champion.probability - truth) ** 2
    value, low, high = pair.bounds(change, np.ones_like(pair.positive))
    passed = low <= 0
    says = f"Brier score {value:+.4f} ({low:+.4f} to {high:+.4f})" + ("" if passed else ": worse calibrated")
    return Check(rule="calibration", passed=passed, difference=value, low=low, high=high, says=says)


def _not_worse(rule: str, pair: _Pair, which: NDArray[np.bool_]) -> Check:
    value, low, high = pair.bounds(pair.more_right(), which)
    passed = high >= 0
    says = f"{rule} {value:+.3f} ({low:+.3f} to {high:+.3f})" + ("" if passed else ": worse")
    return Check(rule=rule, passed=passed, difference=value, low=low, high=high, says=says)
