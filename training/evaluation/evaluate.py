"""Measuring a model on labelled images, as screening would see them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from db.models.card import POSITIVE, ModelCard
from training.data.dataset import CLASSES, as_classes, find_labelled
from training.data.pictures import read_pictures
from training.evaluation.measures import Measures, measure
from worker.decoding.pool import DecoderPool
from worker.runtime.classes import positive_probability
from worker.runtime.loading import load_model
from worker.runtime.passes import probabilities_of
from worker.runtime.protocol import Precision
from worker.settings import WorkerSettings

#: Images held in memory at a time, 150 kB each.
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How a model did on a folder."""

    model: str
    measures: Measures
    #: Images that could not be read and do not count.
    unreadable: int

    def as_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return self.measures.as_json() | {"model": self.model, "unreadable": self.unreadable}


def evaluate(
    data: Path, folder: Path, *, digest: str | None = None, card: ModelCard | None = None
) -> Evaluation:
    """Measure the model in an artefact's folder on a folder that holds NORMAL/ and PNEUMONIA/.

    `digest` and `card` are the registered ones, by default those in the folder.
    Raises LabelledFolderMissing, ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch,
    ModelWeightsUnfit.
    """
    labelled = iter(as_classes(find_labelled(data), CLASSES))
    runtime = load_model(folder, digest=digest, card=card)
    positive: list[bool] = []
    probability: list[float] = []
    unreadable = 0
    settings = WorkerSettings.read()
    with DecoderPool(settings) as decoders:
        while chunk := list(islice(labelled, _CHUNK)):
            pictures = read_pictures(chunk, decoders)
            unreadable += len(pictures.unreadable)
            positive += [image.label == POSITIVE for image in pictures.images]
            rows = probabilities_of(runtime, pictures.pixels, Precision.FP32, settings.forward_images)
            probability += positive_probability(runtime.card, rows).tolist()
    measures = measure(np.array(positive, dtype=bool), np.array(probability), runtime.card.threshold)
    return Evaluation(model=runtime.card.model_id, measures=measures, unreadable=unreadable)
