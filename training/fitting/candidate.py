"""Candidates: trained backbones as model artefacts."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from db.models.card import ModelCard, digest_of, model_id_of
from training.data.classes import positive_columns, positives
from training.data.dataset import Dataset
from training.evaluation.measures import measure
from training.fitting.backbones import IMAGENET_MEAN, IMAGENET_STD
from training.fitting.calibration import calibrate
from training.fitting.fine_tuning import Fitted, training_precision
from training.recipe import Recipe
from worker.imaging import PREPROCESSING
from worker.runtime.torch import ResidentLearner, best_device
from worker.runtime.weights import pack_weights, unpack_weights, write_artifact


def software() -> dict[str, str]:
    """Return the versions of the software that a model is trained with."""
    names = ("pneumoscreen", "torch", "torchvision", "fastai", "pillow", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def write_candidate(
    backbone: str, fitted: Fitted, dataset: Dataset, recipe: Recipe, initial_digest: str | None, out: Path
) -> tuple[ModelCard, NDArray[np.float64]]:
    """Calibrate a trained network, write its artefact below `out`, and return its card.

    The second value is the calibrated probabilities (N, classes) of the held-out images. They are computed
    with the weights as they are stored, in half precision.
    """
    content = pack_weights(fitted.network.state_dict())
    digest = digest_of(content)
    draft = ModelCard(
        model_id=model_id_of(backbone, digest),
        backbone=backbone,  # type: ignore[arg-type]
        classes=dataset.classes,
        positives=positives(dataset.classes),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        preprocessing=PREPROCESSING,
        weights_digest=digest,
        training=_provenance(dataset, recipe, initial_digest, fitted),
    )
    fitted.network.load_state_dict(unpack_weights(content))
    logits = held_out_logits(fitted.network, draft, dataset)
    targets, columns = dataset.targets[dataset.held_out], positive_columns(dataset.classes)
    calibration = calibrate(logits, targets, dataset.classes, recipe.target_sensitivity)
    probabilities = calibration.probabilities(logits)
    found = measure(np.isin(targets, columns), probabilities[:, columns].sum(axis=1), calibration.threshold)
    card = ModelCard.model_validate(
        draft.model_dump() | asdict(calibration) | {"metrics": {"validation": found.as_json()}}
    )
    write_artifact(out / card.model_id, card, content)
    return card, probabilities


def check_candidate(folder: Path) -> None:
    """Build the network of an artefact and load its weights, as a worker does.

    Raises ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch, ModelWeightsUnfit.
    """
    ResidentLearner.load(folder.resolve(), device=torch.device("cpu"))


def _provenance(
    dataset: Dataset, recipe: Recipe, initial_digest: str | None, fitted: Fitted
) -> dict[str, JsonValue]:
    """Return what explains the model years later, without a path or a file name of the data."""
    return {
        "recipe": asdict(recipe),
        "images": len(dataset),
        "held_out": len(dataset.held_out),
        "unreadable": len(dataset.pictures.unreadable),
        "data_fingerprint": dataset.summary().fingerprint,
        "initial_weights_digest": initial_digest,
        "epochs": [asdict(epoch) for epoch in fitted.epochs],
        "device": best_device().type,
        "precision": training_precision(best_device()),
        "threads": torch.get_num_threads(),
        "software": software(),  # type: ignore[dict-item]
    }


@torch.inference_mode()
def held_out_logits(network: torch.nn.Module, card: ModelCard, dataset: Dataset) -> NDArray[np.float32]:
    """Return the logits (N, classes) of the held-out pictures in single precision."""
    network.eval()
    device = best_device()
    mean = torch.tensor(card.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(card.std, device=device).view(1, 3, 1, 1)
    parts = []
    pixels = dataset.pictures.pixels[dataset.held_out]
    for start in range(0, len(pixels), 64):
        batch = torch.from_numpy(pixels[start : start + 64]).to(device).permute(0, 3, 1, 2)
        parts.append(network((batch.float().div_(255.0) - mean) / std).float().cpu())
    return torch.cat(parts).numpy()
