"""The profile of a batch: how many of its predictions fall into each group of a figure."""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from db.models.cautions import UnfamiliarPicture
from db.models.predictions import Acquisition, Screened

#: The figures whose groups are counted.
PROBABILITY, FAMILIARITY, CAUTION = "probability", "familiarity", "caution"
MANUFACTURER, VIEW, AGE, SIZE = "manufacturer", "view", "age", "size"

#: The group of an image whose header does not say it, or which is not DICOM.
UNKNOWN = "unknown"
#: The group of all values that have none of their own.
OTHER = "other"

#: Manufacturers that are stored by name, and characters of their names: a batch's row stays small.
_MANUFACTURERS, _LETTERS = 8, 32
#: View Position (0018,5101): posterior-anterior and anterior-posterior.
_VIEWS = ("PA", "AP")
#: The first year of each age group but the first. Children of 1 to 5 are those of the thesis' pictures.
_AGES = (1, 6, 18, 40, 65)
_AGE_GROUPS = ("0", "1-5", "6-17", "18-39", "40-64", "65+")
#: The least length in pixels of an image's longer side in each class of size.
_SIDES = (1000, 2000, 3000)
_SIZE_CLASSES = ("under 1000", "1000-1999", "2000-2999", "3000 and more")

#: What is read of a header's texts. Nothing else gets into the profile: PostgreSQL reads no NUL in JSON.
_WORD, _YEARS, _SIZE = re.compile(r"\w+"), re.compile(r"(\d{1,3})\b"), re.compile(r"(\d{1,6})x(\d{1,6})")

#: The number of groups that a share from 0 to 1 is divided into.
_TENTHS = 10

_NOTHING = Acquisition(manufacturer="", view_position="", age="", size="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Counts of predictions. They hold no patient data; profiles of several batches add up to one."""

    #: Predictions with a familiarity, and the sum of these.
    compared: int = 0
    familiarity_sum: float = 0.0
    #: Predictions by figure and group. A group without predictions is left out.
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __add__(self, other: Profile) -> Profile:
        """Return the profile of both: the order does not matter."""
        return Profile(
            compared=self.compared + other.compared,
            familiarity_sum=self.familiarity_sum + other.familiarity_sum,
            counts={
                figure: Counter(self.counts.get(figure, {})) + Counter(other.counts.get(figure, {}))
                for figure in self.counts.keys() | other.counts.keys()
            },
        )

    @property
    def familiarity(self) -> float | None:
        """The mean familiarity; 0.5 is expected of pictures of the training hospital."""
        return self.familiarity_sum / self.compared if self.compared else None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, from which `Profile(**values)` makes a profile again.

        Of the manufacturers the most frequent ones are named.
        """
        counts = {figure: dict(sorted(groups.items())) for figure, groups in sorted(self.counts.items())}
        if MANUFACTURER in counts:
            counts[MANUFACTURER] = _most_frequent(counts[MANUFACTURER])
        return {"compared": self.compared, "familiarity_sum": self.familiarity_sum, "counts": counts}


def profile_of(screened: Sequence[Screened], *, unfamiliar: int = 0) -> Profile:
    """Return the profile of some predictions.

    `unfamiliar` is the number of images that were skipped because they are unfamiliar. They count as pictures
    without any familiarity: a cohort would look familiar if its unfamiliar pictures were left out.
    """
    counts: dict[str, Counter[str]] = {}
    if unfamiliar:
        counts = {
            FAMILIARITY: Counter({_tenth(0): unfamiliar}),
            CAUTION: Counter({UnfamiliarPicture.code: unfamiliar}),
        }
    for one in screened:
        for figure, group in _groups(one):
            counts.setdefault(figure, Counter())[group] += 1
    familiarities = [one.familiarity for one in screened if one.familiarity is not None]
    return Profile(
        compared=len(familiarities) + unfamiliar, familiarity_sum=sum(familiarities), counts=counts
    )


def _groups(one: Screened) -> Iterator[tuple[str, str]]:
    """Yield each figure and the group of it that a prediction falls into."""
    facts = one.acquisition or _NOTHING
    yield PROBABILITY, _tenth(one.probability)
    if one.familiarity is not None:
        yield FAMILIARITY, _tenth(one.familiarity)
    for code in (one.caution or "").split():
        yield CAUTION, code
    yield MANUFACTURER, " ".join(_WORD.findall(facts.manufacturer.upper()))[:_LETTERS] or UNKNOWN
    yield VIEW, facts.view_position if facts.view_position in _VIEWS else _unlisted(facts.view_position)
    age = _YEARS.match(facts.age)
    yield AGE, UNKNOWN if age is None else _AGE_GROUPS[bisect(_AGES, int(age[1]))]
    size = _SIZE.fullmatch(facts.size)
    yield SIZE, UNKNOWN if size is None else _SIZE_CLASSES[bisect(_SIDES, max(int(size[1]), int(size[2])))]


def _unlisted(value: str) -> str:
    return OTHER if value else UNKNOWN


def _tenth(share: float) -> str:
    """Return the tenth that a share falls into by its lower end, `0.0` to `0.9`."""
    return f"{min(int(share * _TENTHS), _TENTHS - 1) / _TENTHS}"


def _most_frequent(manufacturers: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of the most frequent manufacturers, and of all others together."""
    named = Counter({name: count for name, count in manufacturers.items() if name != OTHER})
    kept = dict(named.most_common(_MANUFACTURERS))
    others = sum(manufacturers.values()) - sum(kept.values())
    return kept | ({OTHER: others} if others else {})
