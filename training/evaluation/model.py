"""Evaluation of one model on labelled images, which it sees as in screening."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.models.card import POSITIVE, ModelCard
from training.data.classes import CLASSES
from training.data.labelled import as_classes, find_labelled
from training.data.pictures import read_pictures
from training.evaluation.measures import Measures, measure
from worker.decoding.pool import DecoderPool
from worker.runtime.classes import positive_probability
from worker.runtime.loading import load_model
from worker.runtime.passes import outputs_of
from worker.runtime.protocol import Precision, Runtime
from worker.settings import WorkerSettings

#: Images in memory at a time, 150 kB each.
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The measures of a model on a folder."""

    model: str
    measures: Measures
    #: Images that could not be read and do not count.
    unreadable: int

    def as_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return self.measures.as_json() | {"model": self.model, "unreadable": self.unreadable}


def evaluate(
    data: Path,
    folder: Path,
    *,
    digest: str | None = None,
    card: ModelCard | None = None,
    on_images: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measure the model in an artefact's folder on a folder that holds NORMAL/ and PNEUMONIA/.

    `digest` and `card` are the registered ones, by default those in the folder. `on_images` is called with
    the number of images that were read: first with 0, once the model is loaded.
    Raises LabelledFolderMissing, ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch,
    ModelWeightsUnfit.
    """
    labelled = iter(as_classes(find_labelled(data), CLASSES))
    runtime = load_model(folder, digest=digest, card=card)
    positive: list[bool] = []
    probability: list[float] = []
    unreadable = 0
    with DecoderPool(WorkerSettings.read()) as decoders:
        on_images(0)
        while chunk := list(islice(labelled, _CHUNK)):
            pictures = read_pictures(chunk, decoders)
            unreadable += len(pictures.unreadable)
            positive += [image.label == POSITIVE for image in pictures.images]
            probability += predict(runtime, pictures.pixels).tolist()
            on_images(len(positive) + unreadable)
    measures = measure(np.array(positive, dtype=bool), np.array(probability), runtime.card.threshold)
    return Evaluation(model=runtime.card.model_id, measures=measures, unreadable=unreadable)


def predict(runtime: Runtime, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return P(PNEUMONIA), (N,), of pictures (N, 224, 224, 3), as screening does in single precision."""
    outputs = outputs_of(runtime, pixels, Precision.FP32, WorkerSettings.read().forward_images)
    return positive_probability(runtime.card, outputs.probabilities).astype(np.float64)
