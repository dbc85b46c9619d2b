"""One step of a batch: from the decoded images of a forward pass to their outcomes, through the gate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from db.jobs.claims import ClaimedImage, NotScreened
from db.jobs.problems import ImageProblem
from db.models.predictions import Screened
from worker.gate.steps import problems_of
from worker.imaging.picture import Picture
from worker.runtime.passes import Passes
from worker.runtime.protocol import DeviceUnusable
from worker.screening.outcome import outcome_of
from worker.screening.reading import Decoded
from worker.screening.stopwatch import Stopwatch

#: Seconds between two calls of what a thread does while it waits for the device.
_MEANWHILE_SECONDS = 0.25

#: A picture that waits for its probabilities, with the image that it belongs to.
Waiting = tuple[ClaimedImage, Picture]


class Device:
    """The device of this process. One thread at a time computes a pass: others decode or write meanwhile."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._is_held, self._urgent = False, 0
        #: Whether this process cannot use its GPU again.
        self.is_lost = False

    @contextmanager
    def turn(self, computing: Stopwatch, meanwhile: Callable[[], None], urgent: bool) -> Iterator[None]:
        """Hold the device during the block, and time it. Call `meanwhile` now and then until it is free.

        While `urgent` ones wait, no others get it.
        The block may raise DeviceUnusable. All inputs have the same shape and type, so an error of the device
        is never the fault of an image.
        """
        self._wait_for_it(meanwhile, urgent)
        try:
            with computing:
                yield
        except DeviceUnusable as error:
            self.is_lost |= error.lost
            raise
        finally:
            with self._free:
                self._is_held = False
                self._free.notify_all()

    def _wait_for_it(self, meanwhile: Callable[[], None], urgent: bool) -> None:
        with self._free:
            self._urgent += urgent
        try:
            meanwhile()
            while not self._take(urgent):
                meanwhile()
        finally:
            with self._free:
                self._urgent -= urgent
                self._free.notify_all()

    def _take(self, urgent: bool) -> bool:
        """Wait a moment for the device; return whether this thread holds it now."""
        with self._free:
            can_be_taken = self._free.wait_for(
                lambda: not self._is_held and (urgent or not self._urgent), _MEANWHILE_SECONDS
            )
            self._is_held |= can_be_taken
        return can_be_taken


def gate(decoded: list[Decoded]) -> list[Decoded]:
    """Return decoded images with the problems of those that the gate refuses."""
    pictures = [found for _, found in decoded if isinstance(found, Picture)]
    problems = iter(problems_of(pictures))
    return [
        (item, (next(problems) or found) if isinstance(found, Picture) else found) for item, found in decoded
    ]


def predict(
    passes: Passes[Waiting], decoded: list[Decoded] | None, *, skip_unfamiliar: bool = False
) -> list[Screened | NotScreened]:
    """Add decoded images to the passes, and return the outcomes that are known by now.

    None means that no images follow: it computes the remaining pictures. `skip_unfamiliar`: an unfamiliar
    picture gets no prediction.
    """
    if decoded is None:
        done, problems = passes.finish(), []
    else:
        problems = [
            NotScreened(item.image_id, found) for item, found in decoded if isinstance(found, ImageProblem)
        ]
        waiting = [(item, found) for item, found in decoded if isinstance(found, Picture)]
        done = passes.add((one, one[1].pixels) for one in waiting)
    outcomes = (outcome_of(passes.model, *one, row, skip_unfamiliar=skip_unfamiliar) for one, row in done)
    return [*problems, *outcomes]
