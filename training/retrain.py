"""From labelled images to a model artefact."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from scipy.special import softmax

from db.model_card import POSITIVE, ModelCard, digest_of
from training.backbones import IMAGENET_MEAN, IMAGENET_STD, initial_weights_file
from training.dataset import CLASSES, find_labelled, fingerprint, grouped_split
from training.fit import EpochResult, Fitted, fit_backbone, fit_temperature
from training.measures import Measures, measure, operating_point
from training.pictures import PictureSet, read_pictures
from training.recipe import Recipe
from worker.artifact import pack_weights, write_artifact
from worker.imaging import PREPROCESSING


@dataclass(frozen=True, slots=True)
class Challenger:
    """A trained model on disk."""

    folder: Path
    card: ModelCard


@dataclass(frozen=True, slots=True)
class _Calibration:
    """What validation data alone decides."""

    temperature: float
    threshold: float
    measures: Measures


def retrain(
    data: Path,
    *,
    backbone: str,
    recipe: Recipe,
    weights: Path,
    out: Path,
    on_epoch: Callable[[EpochResult], None] = lambda _: None,
) -> Challenger:
    """Train one backbone on a folder with NORMAL/ and PNEUMONIA/ and write its artefact below `out`.

    `weights` is the folder of initial ImageNet weights. Raises LabelledFolderMissing, TooFewLabelled,
    InitialWeightsMissing and InitialWeightsUnfit before the first epoch.
    """
    initial = initial_weights_file(weights, backbone)
    pictures = read_pictures(find_labelled(data))
    held_out = _held_out(pictures, recipe)
    fitted = fit_backbone(backbone, pictures, held_out, recipe, initial, on_epoch)
    targets = np.array([CLASSES.index(pictures.images[index].label) for index in held_out])
    calibration = _calibrate(fitted, targets, recipe)
    content = pack_weights(fitted.network.state_dict())
    digest = digest_of(content)
    card = ModelCard(
        model_id=f"{backbone}-{digest[:12]}",
        backbone=backbone,  # type: ignore[arg-type]
        classes=CLASSES,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        preprocessing=PREPROCESSING,
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        weights_digest=digest,
        training=_provenance(pictures, held_out, recipe, initial, fitted),
        metrics={"validation": calibration.measures.as_json()},  # type: ignore[dict-item]
    )
    write_artifact(out / card.model_id, card, content)
    return Challenger(out / card.model_id, card)


def _held_out(pictures: PictureSet, recipe: Recipe) -> NDArray[np.int64]:
    """Choose the validation images by the recipe."""
    if recipe.grouped:
        return grouped_split(pictures.images, pictures.digests, seed=recipe.seed)[1]
    from fastai.data.transforms import RandomSplitter

    _, held_out = RandomSplitter(0.2, seed=recipe.seed)(pictures.images)
    return np.array(held_out, dtype=np.int64)


def _calibrate(fitted: Fitted, targets: NDArray[np.int64], recipe: Recipe) -> _Calibration:
    """Fit temperature and operating point on the held-out images; the thesis' recipe leaves both alone."""
    positive = targets == CLASSES.index(POSITIVE)
    temperature, threshold = 1.0, 0.5
    if recipe.target_sensitivity is not None:
        temperature = fit_temperature(fitted.held_out_logits, targets)
    probabilities = softmax(fitted.held_out_logits.astype(np.float64) / temperature, axis=1)
    probability = probabilities[:, CLASSES.index(POSITIVE)]
    if recipe.target_sensitivity is not None:
        threshold = operating_point(positive, probability, recipe.target_sensitivity)
    return _Calibration(temperature, threshold, measure(positive, probability, threshold))


def _provenance(
    pictures: PictureSet, held_out: NDArray[np.int64], recipe: Recipe, initial: Path, fitted: Fitted
) -> dict[str, JsonValue]:
    """Return what explains the model years later, without a path or a file name of the data."""
    return {
        "recipe": asdict(recipe),
        "images": len(pictures.images),
        "held_out": len(held_out),
        "unreadable": len(pictures.unreadable),
        "data_fingerprint": fingerprint(pictures.digests, [image.label for image in pictures.images]),
        "initial_weights_digest": digest_of(initial.read_bytes()),
        "epochs": [asdict(epoch) for epoch in fitted.epochs],
        "software": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "fastai", "pillow")},
        },
    }
