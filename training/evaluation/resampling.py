"""Bootstrap samples of patients, because the images of one patient are not independent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

#: Enough samples for the third decimal of a 95% interval.
SAMPLES = 1000


def draw_patients(groups: NDArray[np.int64], samples: int = SAMPLES) -> Iterator[NDArray[np.intp]]:
    """Yield, for each sample, how often each image counts: (N,). All images of a patient count equally often.

    `groups` (N,) are equal for images of one patient. Equal groups give the same samples at every call.
    """
    patient = np.unique(groups, return_inverse=True)[1]
    patients = int(patient.max()) + 1
    random = np.random.default_rng(0)
    for _ in range(samples):
        yield np.bincount(random.integers(patients, size=patients), minlength=patients)[patient]


def draw_matrix(groups: NDArray[np.int64], samples: int = SAMPLES) -> NDArray[np.float32]:
    """Return all samples at once: float32, (samples, N)."""
    return np.stack([drawn.astype(np.float32) for drawn in draw_patients(groups, samples)])


def mean_bounds(
    values: NDArray[np.float64], draws: NDArray[np.float32], errors: tuple[float, float]
) -> tuple[float, float]:
    """Return quantiles, such as (0.025, 0.975), of the mean of `values` (N,) over bootstrap samples."""
    totals = draws.sum(axis=1)
    sums = draws @ values.astype(np.float32)
    low, high = np.quantile(sums[totals > 0] / totals[totals > 0], errors)
    return float(low), float(high)


def single_images(count: int) -> NDArray[np.int64]:
    """Return groups for images that are each of a patient of their own."""
    return np.arange(count, dtype=np.int64)
