"""The comparison of a cohort's pictures with those of the training hospital, by their familiarity.

It is the rank-sum test of Wilcoxon (1945) and of Mann and Whitney (1947). A picture's familiarity is its rank
among the m held-out pictures of the training hospital, divided by m, so that the test of n pictures needs
only their number and the sum of their familiarities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.states import BatchState
from db.tables import Batch, Model
from db.text import counted
from db.trust.acceptances import ACCEPTED, standing
from db.trust.profile import Profile

#: Pictures are unlike those of the training hospital from this effect size on: the share of pairs, of one
#: held-out picture and one of these, in which the held-out picture is the more familiar one. Vargha and
#: Delaney (2000) call 0.56 a small effect, 0.64 a medium one and 0.71 a large one. Measured with the default
#: model's backbone: 0.57 for another series of the training hospital, 0.997 for adults of another hospital.
UNLIKE_EFFECT = 0.80

#: And only if chance makes such a difference less often than this (one-sided). Pictures of one patient are
#: not independent, as the test assumes: among many pictures the effect size is what decides.
CHANCE = 0.001

#: Fewer pictures say nothing.
FEWEST = 20

#: The newest batches of a cohort that are compared, 51,200 images at most: a poll never reads every row.
NEWEST = 200

#: Cohorts whose comparisons metrics show: those of the last batches.
_COHORTS, _LAST_BATCHES = 20, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of the test for some pictures that one model has screened."""

    model: str
    #: The pictures that are compared.
    images: int
    #: The share of pairs in which the training hospital's picture is the more familiar one; 0.5 means no
    #: difference.
    effect: float
    #: How often chance alone makes the effect at least so large.
    p_value: float
    #: What `pneumoscreen accept` last found of the model at this site; None if it was never measured here.
    acceptance: str | None

    @property
    def unlike(self) -> bool:
        """Whether the pictures are unlike those of the training hospital."""
        return self.images >= FEWEST and self.p_value < CHANCE and self.effect >= UNLIKE_EFFECT

    @property
    def distrusted(self) -> bool:
        """Whether nobody can trust the numbers: the model was not accepted here on such pictures."""
        return self.unlike and self.acceptance != ACCEPTED

    def as_text(self) -> str:
        """Return what it means and what to do, if the pictures are unlike those of the training hospital."""
        if not self.unlike:
            return ""
        effect = (
            f"In {self.effect:.0%} of pairs the training hospital's picture is the more familiar one "
            f"({counted(self.images, 'image')} compared)."
        )
        if self.acceptance == ACCEPTED:
            return (
                f"The pictures are unlike those that the model learned from. {effect} The model was accepted "
                f"at this site: `pneumoscreen models show {self.model}` says how it was measured."
            )
        measured = "The model was measured at this site, and not accepted. " if self.acceptance else ""
        return (
            "Do not trust these numbers: the pictures are unlike those that the model learned from. "
            f"{effect} {measured}`pneumoscreen accept DATA` measures how good the model is here, on labelled "
            "images of this site."
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {
            "unlike": self.unlike, "distrusted": self.distrusted, "text": self.as_text(),
        }  # fmt: skip


def rank_sum_test(images: int, familiarity_sum: float, held_out: int) -> tuple[float, float]:
    """Return the effect size, and the one-sided p-value of "less familiar than held-out pictures".

    `images` is the number of pictures, at least 1. `held_out` is the number of pictures that familiarities
    are ranks among. The p-value is that of the normal approximation.
    """
    effect = 1 - familiarity_sum / images
    deviation = math.sqrt((held_out + images + 1) / (12 * held_out * images))
    return effect, math.erfc((effect - 0.5) / deviation / math.sqrt(2)) / 2


def compare_cohort(session: Session, cohort_id: int) -> Comparison | None:
    """Compare the newest pictures of a cohort; None if its model knows no familiarity.

    It is also None if nothing is screened or the cohort is archived. If several models have screened the
    pictures, those of the model with the most count.
    """
    profile = Batch.profile
    newest = (
        select(
            Batch.model_id,
            profile["compared"].as_integer().label("compared"),
            profile["familiarity_sum"].as_float().label("familiarity_sum"),
        )
        .where(Batch.cohort_id == cohort_id, Batch.state == BatchState.DONE)
        .order_by(Batch.id.desc())
        .limit(NEWEST)
        .subquery()
    )
    compared, familiarity_sum = func.sum(newest.c.compared), func.sum(newest.c.familiarity_sum)
    query = (
        select(newest.c.model_id, compared, familiarity_sum)
        .group_by(newest.c.model_id)
        .having(compared > 0)
        .order_by(compared.desc(), newest.c.model_id.desc())
        .limit(1)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else _compare(session, *row)


def compare_profiles(session: Session, profiles: Mapping[int, Profile]) -> Comparison | None:
    """Compare the pictures of the profiles, by the model's row id, of the model with the most pictures."""
    most = max(profiles, key=lambda model_id: (profiles[model_id].compared, model_id), default=None)
    if most is None or not profiles[most].compared:
        return None
    return _compare(session, most, profiles[most].compared, profiles[most].familiarity_sum)


def _compare(session: Session, model_id: int, images: int, familiarity_sum: float) -> Comparison | None:
    held_out = Model.card["familiarity", "held_out"].as_integer()
    name, ranked = session.execute(select(Model.name, held_out).where(Model.id == model_id)).one()
    if not ranked:
        return None
    effect, p_value = rank_sum_test(images, familiarity_sum, ranked)
    acceptance = standing(session).get(model_id)
    return Comparison(model=name, images=images, effect=effect, p_value=p_value, acceptance=acceptance)


def recent_cohorts(session: Session) -> Sequence[int]:
    """Return the cohorts of the batches that were finished last, at most 20, in the order of their ids."""
    last = (
        select(Batch.cohort_id)
        .where(Batch.finished_at.is_not(None))
        .order_by(Batch.finished_at.desc())
        .limit(_LAST_BATCHES)
        .subquery()
    )
    newest = select(last.c.cohort_id).distinct().order_by(last.c.cohort_id.desc()).limit(_COHORTS)
    return sorted(session.scalars(newest))
