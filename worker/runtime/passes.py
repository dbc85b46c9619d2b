"""Forward passes: a batch's pictures through the network, always as many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from worker.runtime.precision import Row, is_clear_cut
from worker.runtime.torch import Precision, ResidentLearner

_Name = TypeVar("_Name")

_Named = tuple[_Name, NDArray[np.uint8]]


class Passes(Generic[_Name]):
    """Collects the pictures of one batch and computes them in passes of one size; one thread uses it.

    A picture's probabilities depend in their last bits on how many are computed at once, and on nothing else
    of its neighbours: libraries choose their kernels by the shape. So pictures wait until a pass is full, and
    what is left at the end of a batch is filled up with black.
    """

    def __init__(self, learner: ResidentLearner, *, adaptive: bool, size: int) -> None:
        """`adaptive`: begin in bfloat16, and compute again what is not clear-cut in it."""
        self.learner = learner
        self._adaptive, self._size = adaptive, size
        self._new: list[_Named[_Name]] = []
        self._again: list[_Named[_Name]] = []

    def add(self, pictures: Iterable[_Named[_Name]]) -> list[tuple[_Name, Row | None]]:
        """Take pictures up, (224, 224, 3) each under a name, and return the rows of those that are computed.

        None stands for a picture that does not fit into the device's memory by itself.
        """
        self._new += pictures
        return [*self._compute(last=False)]

    def finish(self) -> list[tuple[_Name, Row | None]]:
        """Return the rows of all others."""
        return [*self._compute(last=True)]

    def _compute(self, *, last: bool) -> Iterator[tuple[_Name, Row | None]]:
        first = Precision.BF16 if self._adaptive else Precision.FP32
        for name, picture, row in self._run(self._new, first, last=last):
            if row is None or row.precision is Precision.FP32 or is_clear_cut(self.learner, row.values):
                yield name, row
            else:
                self._again.append((name, picture))
        for name, _, row in self._run(self._again, Precision.FP32, last=last):
            yield name, row

    def _run(
        self, waiting: list[_Named[_Name]], precision: Precision, *, last: bool
    ) -> Iterator[tuple[_Name, NDArray[np.uint8], Row | None]]:
        """Take the pictures of each full pass, and of the last one, out of those that wait."""
        while len(waiting) >= self._size or (last and waiting):
            taken = waiting[: self._size]
            del waiting[: self._size]
            rows = fitting_rows(
                self.learner, np.stack([picture for _, picture in taken]), precision, self._size
            )
            for (name, picture), row in zip(taken, rows, strict=True):
                yield name, picture, row


def fitting_rows(
    learner: ResidentLearner, pixels: NDArray[np.uint8], precision: Precision, size: int
) -> list[Row | None]:
    """Return class probabilities per picture; if memory runs out, by ever smaller passes.

    None stands for a picture that does not fit by itself.
    """
    try:
        return [Row(row, precision) for row in learner.probabilities(pixels, precision, size)]
    except torch.OutOfMemoryError:
        if size == 1:
            return [None] * len(pixels)
    # Outside the handler: the error holds on to the memory of the failed pass.
    torch.cuda.empty_cache()
    half = size // 2
    parts = (pixels[start : start + half] for start in range(0, len(pixels), half))
    return [row for part in parts for row in fitting_rows(learner, part, precision, half)]
