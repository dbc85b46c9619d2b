"""The gate step that judges a picture by its content: whether there is something to look at.

A model gives a confident number for any picture, also for a white one, a black one and noise. Four measures
of the grey picture have a limit each. The limits stand far from all real pictures that were measured:
5,846 of children and adults of two hospitals (docs/architecture.md has the table), of which none is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import FewGreys, ImageProblem, NarrowRange, NoContrast, NoStructure
from worker.gate.verdict import Verdict
from worker.imaging.picture import SIDE, Picture

#: Greys of a picture, 0 to 255.
_GREYS = 256
#: Percentiles that the range of the greys lies between: a marker or a few dead pixels do not count.
_LOW, _HIGH = 0.01, 0.99
#: Parts on a side of the grid that tells structure from noise: 8 x 8 parts of 28 x 28 pixels, each about as
#: large as a rib and the space below it. The mean of noise is the same in all of them.
_PARTS = 8


@dataclass(frozen=True, slots=True)
class _Limit:
    """The lowest value of a measure, and the problem of a picture that is below it."""

    least: float
    problem: type[ImageProblem]


#: In the order of `measure`: the first limit that a picture misses counts.
_LIMITS = (
    # Standard deviation of the greys. Real pictures: 19.8 and more, half of them above 57.
    _Limit(12.0, NoContrast),
    # Greys between the 1st and the 99th percentile. Real pictures: 85 and more, half of them above 203. A
    # picture of 14 bits that is shown in 16 has 63 at most.
    _Limit(64.0, NarrowRange),
    # Entropy of the greys in bits. Real pictures: 5.9 and more. Two greys have 1, four have 2 at most; a
    # chest that fills a quarter of a black picture has 2.1 and more.
    _Limit(2.0, FewGreys),
    # Share of the variance that is between the parts of the grid. Real pictures: 0.29 and more, half of them
    # above 0.76. Noise of 32 grains on a side and more has 0.15 at most.
    _Limit(0.2, NoStructure),
)


def judge_quality(pictures: Sequence[Picture]) -> list[Verdict]:
    """Refuse pictures without content.

    The score is the lowest ratio of a measure to its limit: below 1 if the picture is refused.
    """
    if not pictures:
        return []
    # The channels are equal but for coloured markers.
    measures = measure(np.stack([picture.pixels[:, :, 1] for picture in pictures]))
    ratios = measures / np.array([limit.least for limit in _LIMITS])
    return [_verdict(row) for row in ratios]


def _verdict(ratios: NDArray[np.float64]) -> Verdict:
    missed = [limit.problem for limit, ratio in zip(_LIMITS, ratios, strict=True) if ratio < 1]
    return Verdict(missed[0]() if missed else None, score=float(ratios.min()))


def measure(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return deviation, range, entropy and structure of uint8 pictures (N, 224, 224) as float64 (N, 4)."""
    shares = _shares(grey)
    greys = np.arange(_GREYS)
    # Sums of rows: the rounding of a product of matrices depends on the number of pictures.
    means = (shares * greys).sum(axis=1)
    variances = (shares * greys**2).sum(axis=1) - means**2
    below = shares.cumsum(axis=1)
    ranges = (below < _HIGH).sum(axis=1) - (below < _LOW).sum(axis=1)
    entropies = -(shares * np.log2(shares, where=shares > 0, out=np.zeros_like(shares))).sum(axis=1)
    between = _part_means(grey).var(axis=1, dtype=np.float64)
    structure = np.divide(between, variances, where=variances > 0, out=np.zeros_like(variances))
    return np.stack([np.sqrt(np.maximum(variances, 0)), ranges, entropies, structure], axis=1)


def _shares(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the share of each grey in the pixels of each picture, (N, 256)."""
    counts = [np.bincount(one.ravel(), minlength=_GREYS) for one in grey]
    shares: NDArray[np.float64] = np.stack(counts) / grey[0].size
    return shares


def _part_means(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean grey of each part of the grid, (N, 64), as two products of matrices."""
    side = SIDE // _PARTS
    means = np.repeat(np.eye(_PARTS, dtype=np.float32), side, axis=1) / np.float32(side)
    parts: NDArray[np.float32] = means @ grey.astype(np.float32) @ means.T
    return parts.reshape(len(grey), -1)
