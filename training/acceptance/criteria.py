"""The criteria of an acceptance, which are fixed before anything is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from training.acceptance.figures import Figures
from training.evaluation.measures import Measure

#: An interval from fewer images is too wide to say anything, whatever it contains.
FEWEST = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What a model must show on images of a site.

    The lower end of the 95% interval counts, and not the value: a model is accepted if it is good enough,
    and not if it may be.
    """

    #: A triage aid that misses more than one pneumonia in ten is of no use.
    sensitivity: float = 0.90
    #: With a lower specificity, a list that is sorted by it hardly differs from one that is not.
    specificity: float = 0.80
    #: The fewest patients of each class.
    fewest: int = FEWEST

    def as_json(self) -> dict[str, float]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a model is accepted, and why."""

    accepted: bool
    #: Each criterion with its result, in a sentence.
    reasons: tuple[str, ...]


def judge(figures: Figures, criteria: Criteria) -> Verdict:
    """Return the verdict on what was measured. Every criterion must be met."""
    results = [
        _enough("with pneumonia", figures.positive_patients, criteria.fewest),
        _enough("without pneumonia", figures.negative_patients, criteria.fewest),
        _at_least("sensitivity", figures.sensitivity, criteria.sensitivity),
        _at_least("specificity", figures.specificity, criteria.specificity),
    ]
    return Verdict(accepted=all(met for met, _ in results), reasons=tuple(says for _, says in results))


def _enough(which: str, patients: int, fewest: int) -> tuple[bool, str]:
    says = f"{patients} patients {which}, needed {fewest}"
    met = patients >= fewest
    return met, says + ("" if met else ": too few to say")


def _at_least(name: str, found: Measure, needed: float) -> tuple[bool, str]:
    if found.value is None or found.low is None or found.high is None:
        return False, f"{name} is not known, needed {needed:.2f}"
    says = f"{name} {found.value:.3f} ({found.low:.3f} to {found.high:.3f}), needed {needed:.2f}"
    if found.low >= needed:
        return True, says
    if found.high >= needed:
        return False, f"{says}: too few images to say that it is as high"
    return False, f"{says}: it is lower"
