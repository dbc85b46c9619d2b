"""A trained backbone as a model artefact."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from db.models.card import PREPROCESSING, ModelCard, digest_of, model_id_of
from training.data.dataset import positives
from training.data.prepare import Prepared
from training.evaluation.calibration import calibrate
from training.evaluation.measures import measure
from training.fitting.backbones import IMAGENET_MEAN, IMAGENET_STD
from training.fitting.fit import Fitted, logits, training_precision
from training.recipe import Recipe
from worker.runtime.device import best_device
from worker.runtime.loading import load_model
from worker.runtime.weights import pack_weights, unpack_weights, write_artifact


def software() -> dict[str, str]:
    """Return the versions that a model came to be with."""
    names = ("pneumoscreen", "torch", "torchvision", "fastai", "pillow", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def write_candidate(
    backbone: str, fitted: Fitted, prepared: Prepared, recipe: Recipe, initial_digest: str | None, out: Path
) -> tuple[ModelCard, NDArray[np.float64]]:
    """Calibrate a trained network, write its artefact below `out`, and return its card.

    The second value are the calibrated probabilities (N, classes) of the held-out images, computed with the
    weights as they are stored, in half precision.
    """
    content = pack_weights(fitted.network.state_dict())
    fitted.network.load_state_dict(unpack_weights(content))
    stored = logits(fitted.network, prepared.pictures.pixels[prepared.held_out], best_device())
    classes, targets = prepared.classes, prepared.targets[prepared.held_out]
    columns = [classes.index(name) for name in positives(classes)]
    temperature, threshold, probabilities = calibrate(stored, targets, columns, recipe)
    found = measure(np.isin(targets, columns), probabilities[:, columns].sum(axis=1), threshold)
    digest = digest_of(content)
    card = ModelCard(
        model_id=model_id_of(backbone, digest),
        backbone=backbone,  # type: ignore[arg-type]
        classes=classes,
        positives=positives(classes),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        preprocessing=PREPROCESSING,
        temperature=temperature,
        threshold=threshold,
        weights_digest=digest,
        training=_provenance(prepared, recipe, initial_digest, fitted),
        metrics={"validation": found.as_json()},  # type: ignore[dict-item]
    )
    write_artifact(out / card.model_id, card, content)
    return card, probabilities


def check_candidate(folder: Path) -> None:
    """Build the network of an artefact and put its weights in, as a worker does.

    Raises ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch, ModelWeightsUnfit.
    """
    load_model(folder.resolve(), device="cpu")


def _provenance(
    prepared: Prepared, recipe: Recipe, initial_digest: str | None, fitted: Fitted
) -> dict[str, JsonValue]:
    """Return what explains the model years later, without a path or a file name of the data."""
    summary = prepared.summary()
    return {
        "recipe": asdict(recipe),
        "images": len(prepared.pictures),
        "held_out": len(prepared.held_out),
        "unreadable": len(prepared.pictures.unreadable),
        "data_fingerprint": summary.fingerprint,
        "initial_weights_digest": initial_digest,
        "epochs": [asdict(epoch) for epoch in fitted.epochs],
        "device": best_device().type,
        "precision": training_precision(best_device()),
        "threads": torch.get_num_threads(),
        "software": software(),  # type: ignore[dict-item]
    }
