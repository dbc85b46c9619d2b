"""Forward passes of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from worker.runtime.precision import LoadedModel, Row, ladder, next_precision, row_of
from worker.runtime.protocol import Output, PassTooLarge, Precision, Runtime

_Name = TypeVar("_Name")

_Named = tuple[_Name, NDArray[np.uint8]]

#: Pictures in one pass by default, as in the setting `forward_images`.
PASS_IMAGES = 16


def outputs_of(
    runtime: Runtime,
    pictures: NDArray[np.uint8],
    precision: Precision = Precision.FP32,
    size: int = PASS_IMAGES,
) -> Output:
    """Return what the network gives for pictures (N, 224, 224, 3), computed in passes of `size`.

    Black pictures fill up the last pass if the runtime depends on its size.
    Raises PassTooLarge, DeviceUnusable.
    """
    count, missing = len(pictures), -len(pictures) % size
    if missing and runtime.depends_on_pass_size:
        black = np.zeros((missing, *pictures.shape[1:]), dtype=np.uint8)
        pictures = np.concatenate([pictures, black])
    starts = range(0, len(pictures), size)
    outputs = [runtime.forward(pictures[one : one + size], precision) for one in starts]
    return Output(
        np.concatenate([one.probabilities for one in outputs])[:count],
        np.concatenate([one.features for one in outputs])[:count],
    )


class Passes(Generic[_Name]):
    """Collects the pictures of one batch and computes them in passes of one size; one thread uses it.

    With some runtimes the last bits of a picture's probabilities depend on the number of pictures in the
    pass, and on nothing else. Therefore pictures wait until a pass is full, and black pictures fill up the
    last pass of a batch.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        adaptive: bool,
        size: int,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`adaptive`: compute in a fast number format first, and again what that leaves in doubt.

        Each pass is computed within a `turn`. Everything else is done outside of it, so that a device that
        several threads share waits for nothing but passes.
        """
        self.model = model
        self._turn = turn
        self._size = size
        self._precisions = ladder(model.runtime) if adaptive else (Precision.FP32,)
        #: The pictures that wait for a pass in each number format.
        self._waiting: dict[Precision, list[_Named[_Name]]] = {one: [] for one in self._precisions}

    def add(self, pictures: Iterable[_Named[_Name]]) -> list[tuple[_Name, Row | None]]:
        """Add named pictures (224, 224, 3), and return the rows of all pictures that are computed by now.

        None means that a single picture does not fit into the device's memory.
        """
        self._waiting[self._precisions[0]] += pictures
        return [*self._compute(last=False)]

    def finish(self) -> list[tuple[_Name, Row | None]]:
        """Compute the remaining pictures and return their rows."""
        return [*self._compute(last=True)]

    def _compute(self, *, last: bool) -> Iterator[tuple[_Name, Row | None]]:
        for precision, waiting in self._waiting.items():
            for name, picture, row in self._run(waiting, precision, last=last):
                again = None if row is None else next_precision(self.model, self._precisions, row)
                if again is None:
                    yield name, row
                else:
                    self._waiting[again].append((name, picture))

    def _run(
        self, waiting: list[_Named[_Name]], precision: Precision, *, last: bool
    ) -> Iterator[tuple[_Name, NDArray[np.uint8], Row | None]]:
        """Remove the pictures of each full pass from `waiting` and compute them; if `last`, also the rest."""
        while len(waiting) >= self._size or (last and waiting):
            taken = waiting[: self._size]
            del waiting[: self._size]
            pictures = np.stack([picture for _, picture in taken])
            with self._turn():
                outputs = outputs_that_fit(self.model.runtime, pictures, precision, self._size)
            for (name, picture), output in zip(taken, outputs, strict=True):
                yield name, picture, None if output is None else row_of(self.model, output, precision)


def outputs_that_fit(
    runtime: Runtime, pictures: NDArray[np.uint8], precision: Precision, size: int
) -> list[Output | None]:
    """Return what the network gives for each picture, in smaller passes if memory runs out.

    None means that a single picture does not fit. Raises DeviceUnusable.
    """
    try:
        return [*outputs_of(runtime, pictures, precision, size).rows()]
    except PassTooLarge:
        if size == 1:
            return [None] * len(pictures)
    half = size // 2
    parts = (pictures[start : start + half] for start in range(0, len(pictures), half))
    return [output for part in parts for output in outputs_that_fit(runtime, part, precision, half)]
