"""The drift of a night: how far its images and their predictions differ from those of earlier nights.

It is measured by the population stability index (PSI), the sum of (p - q) ln(p / q) over the groups of a
figure. p and q are the shares of a group tonight and before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from db.trust.profile import AGE, FAMILIARITY, MANUFACTURER, PROBABILITY, SIZE, UNKNOWN, VIEW, Profile

#: What is compared, in words. The first two depend on the model, too.
FIGURES = {
    PROBABILITY: "P(pneumonia)",
    FAMILIARITY: "familiarity",
    MANUFACTURER: "manufacturer",
    VIEW: "view position",
    AGE: "age in years",
    SIZE: "image size in pixels",
}
_OF_THE_MODEL = (PROBABILITY, FAMILIARITY)

#: A figure has changed if its PSI is above this, the rule of thumb of the field: below 0.1 is a little
#: change, below 0.25 a moderate one.
CHANGED = 0.25

#: And only if chance makes so large an index in less than one of a thousand nights: 3.09 standard deviations.
#: The rule of thumb was made for many images. With few, chance alone makes larger indices: about those of a
#: chi-squared distribution, times 1/n + 1/m for n and m images (Yurdakul and Naranjo 2020).
_CHANCE_DEVIATIONS = 3.09

#: Images tonight, and before, without which nothing is said.
FEWEST = 50

#: Added to each count, so that a group without images has a logarithm.
_PRIOR = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The drift of one figure."""

    #: One of `FIGURES`.
    figure: str
    #: The population stability index: 0 means the same shares.
    psi: float
    changed: bool
    #: The group whose share changed the most, and its shares; empty for manufacturers, whose names are free
    #: text of a header.
    group: str
    tonight: float
    before: float

    @property
    def name(self) -> str:
        """The figure in words."""
        return FIGURES[self.figure]

    @property
    def found(self) -> str:
        """The index and, if the figure has changed, what changed the most."""
        if not self.changed:
            return f"{self.psi:.2f}"
        most = f"; {self._range}: {self.tonight:.0%}, before {self.before:.0%}" if self.group else ""
        return f"{self.psi:.2f}, changed{most}"

    @property
    def _range(self) -> str:
        """The values of the group: a tenth is known by its lower end."""
        tenth = self.figure in (PROBABILITY, FAMILIARITY)
        return f"{self.group} to {float(self.group) + 0.1:.1f}" if tenth else self.group


def drifts_of(tonight: dict[str, Any], before: Sequence[dict[str, Any]]) -> list[Drift]:
    """Return the drift of each figure of a night's summary against the nights before, if these can tell.

    What depends on the model is compared with nights of the same models alone.
    """
    now = Profile(**tonight["profile"])
    known = [night for night in before if night.get("profile") is not None]
    same_models = [night for night in known if night["models"].keys() == tonight["models"].keys()]
    drifts = []
    for figure in FIGURES:
        nights = same_models if figure in _OF_THE_MODEL else known
        then = sum((Profile(**night["profile"]) for night in nights), Profile())
        drift = _drift(figure, now.counts.get(figure, {}), then.counts.get(figure, {}))
        drifts += [] if drift is None else [drift]
    return drifts


def _drift(figure: str, tonight: Mapping[str, int], before: Mapping[str, int]) -> Drift | None:
    """Return the drift between two counts by group; None if there are too few images, or all are unknown."""
    groups = sorted(tonight.keys() | before.keys())
    images = sum(tonight.values()), sum(before.values())
    if min(images) < FEWEST or groups == [UNKNOWN]:
        return None
    p, q = _shares(tonight, groups), _shares(before, groups)
    psi = sum((p[group] - q[group]) * math.log(p[group] / q[group]) for group in groups)
    most = max(groups, key=lambda group: abs(p[group] - q[group]))
    return Drift(
        figure=figure,
        psi=psi,
        changed=psi > max(CHANGED, _by_chance(len(groups), *images)),
        group="" if figure == MANUFACTURER else most,
        tonight=tonight.get(most, 0) / images[0],
        before=before.get(most, 0) / images[1],
    )


def _shares(counts: Mapping[str, int], groups: Iterable[str]) -> dict[str, float]:
    raised = {group: counts.get(group, 0) + _PRIOR for group in groups}
    total = sum(raised.values())
    return {group: count / total for group, count in raised.items()}


def _by_chance(groups: int, images: int, before: int) -> float:
    """Return the index that chance exceeds in one of a thousand nights without a change.

    The quantile of chi-squared is the approximation of Wilson and Hilferty (1931).
    """
    freedom = groups - 1
    if freedom == 0:
        return 0.0
    part = 2 / (9 * freedom)
    return freedom * (1 - part + _CHANCE_DEVIATIONS * math.sqrt(part)) ** 3 * (1 / images + 1 / before)
