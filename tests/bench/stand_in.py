"""A screening worker without pictures: `celery -A tests.bench.stand_in worker` measures the queue alone.

Files are neither read nor decoded, the gate is open, and a runtime answers at once, or after `SLEEP` seconds
for each picture. Everything else is the worker's own: messages, claims, leases, passes, outcomes and results.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import worker.screening.batch
from db.jobs.claims import Claim
from db.models.card import ModelCard
from worker.imaging.picture import Picture
from worker.runtime.features import feature_count
from worker.runtime.loading import REFERENCE, RUNTIMES
from worker.runtime.protocol import Output, Precision
from worker.screening.reading import Decoded
from worker.settings import WorkerSettings
from worker.tasks import app

__all__ = ["app", "load"]

SLEEP = float(os.environ.get("SLEEP", "0"))
_PICTURE = Picture(pixels=np.zeros((224, 224, 3), dtype=np.uint8), digest="0" * 64, facts=None)


class StandIn:
    """A runtime that gives every picture the same probabilities."""

    name = "stand-in"
    precisions = frozenset({Precision.FP32})
    depends_on_pass_size = False

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def forward(self, pictures: NDArray[np.uint8], precision: Precision) -> Output:
        if SLEEP:
            time.sleep(SLEEP * len(pictures))
        classes = len(self.card.classes)
        equal = np.full((len(pictures), classes), 1 / classes, dtype=np.float32)
        return Output(equal, np.zeros((len(pictures), feature_count(self.card.backbone)), dtype=np.float32))

    def peak_memory(self) -> None:
        return None


def load(card: ModelCard, weights: bytes, *, device: str | None) -> StandIn:
    return StandIn(card)


class NoReader:
    """A reader that opens no file."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._size = settings.forward_images

    def steps(self, claimed: Claim) -> Iterator[list[Decoded]]:
        for start in range(0, len(claimed.images), self._size):
            yield [(item, _PICTURE) for item in claimed.images[start : start + self._size]]


os.environ["PNEUMOSCREEN_RUNTIME"] = REFERENCE
RUNTIMES[REFERENCE] = __name__
worker.screening.batch.BatchReader = NoReader  # type: ignore[assignment,misc]
worker.screening.batch.gate = lambda decoded: decoded
