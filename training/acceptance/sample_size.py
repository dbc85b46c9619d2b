"""How many labelled images give an interval of a given width."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

#: The standard normal deviate of a two-sided 95% interval.
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """The labelled images that an acceptance needs."""

    #: Images with and without pneumonia that give intervals of the wanted width.
    positive: int
    negative: int
    #: Images that have to be read to find so many of each, at the prevalence.
    consecutive: int

    def as_json(self) -> dict[str, int]:
        """Return plain JSON values."""
        return asdict(self)


def interval_width(share: float, images: int) -> float:
    """Return the width of Wilson's 95% interval of a share that is measured on so many images."""
    spread = math.sqrt(share * (1 - share) / images + _Z**2 / (4 * images**2))
    return 2 * _Z * spread / (1 + _Z**2 / images)


def images_for(share: float, width: float) -> int:
    """Return the fewest images on which the interval of an expected share is no wider than `width`.

    Wilson's score interval (Wilson 1927), which is the one that `accept` prints. `share` is 0 to 1, `width`
    above 0 and below 1.
    """
    low, high = 0, 1
    while interval_width(share, high) > width:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if interval_width(share, middle) > width:
            low = middle
        else:
            high = middle
    return high


def sample_size(*, sensitivity: float, specificity: float, width: float, prevalence: float) -> SampleSize:
    """Return the images that are needed at an expected sensitivity and specificity.

    Images come in as they are taken, a share of `prevalence` of them with pneumonia, until there are enough
    of both (Buderer 1996, equations 1 to 4). All shares are above 0 and below 1; images of one patient are
    not independent, so that it is the number of patients.
    """
    positive, negative = images_for(sensitivity, width), images_for(specificity, width)
    needed = max(positive / prevalence, negative / (1 - prevalence))
    return SampleSize(positive=positive, negative=negative, consecutive=math.ceil(needed))
