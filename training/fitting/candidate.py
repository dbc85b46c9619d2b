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

from db.models.card import PREPROCESSING, ModelCard, model_id_of
from db.models.store import digest_of
from training.data.classes import positive_columns, positives
from training.data.dataset import Dataset
from training.evaluation.measures import measure
from training.evaluation.precisions import learn_precisions
from training.fitting.backbones import InitialWeights
from training.fitting.calibration import calibrate
from training.fitting.fine_tuning import Fitted, training_precision
from training.recipe import Recipe
from training.trust.familiarity import learn_familiarity
from worker.runtime.loading import load_model
from worker.runtime.torch.artifact import pack_weights, write_artifact
from worker.runtime.torch.device import best_device
from worker.runtime.torch.normalisation import IMAGENET_MEAN, IMAGENET_STD
from worker.runtime.torch.runtime import TorchRuntime, load
from worker.settings import WorkerSettings
from worker.trust.familiarity import load_statistics, unpack_statistics

#: The most pictures of each side of a former site that tell what is familiar: half of those that
#: `training.trust.familiarity` takes.
_OF_FORMER = 750


def software() -> dict[str, str]:
    """Return the versions of the software that a model is trained with."""
    names = ("pneumoscreen", "torch", "torchvision", "fastai", "pillow", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def write_candidate(
    backbone: str,
    fitted: Fitted,
    dataset: Dataset,
    recipe: Recipe,
    initial: InitialWeights,
    out: Path,
    *,
    former: Dataset | None = None,
) -> tuple[ModelCard, NDArray[np.float64]]:
    """Calibrate a trained network, write its artefact below `out`, and return its card.

    The second value is the calibrated probabilities (N, classes) of the held-out images. Images of a `former`
    site, which were replayed, calibrate nothing: the model is for the new one.
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
        training=_provenance(dataset, recipe, initial, fitted) | _continued(initial, former),
    )
    # The weights as they are stored, in half precision.
    logits = _held_out_logits(load(draft, content), dataset)
    targets, columns = dataset.targets[dataset.held_out], positive_columns(dataset.classes)
    calibration = calibrate(logits, targets, dataset.classes, recipe.target_sensitivity)
    probabilities = calibration.probabilities(logits)
    found = measure(np.isin(targets, columns), probabilities[:, columns].sum(axis=1), calibration.threshold)
    card = ModelCard.model_validate(
        draft.model_dump() | asdict(calibration) | {"metrics": {"validation": found.as_json()}}
    )
    card, statistics = learn_the_rest(card, content, *_learnt_from(dataset, former))
    write_artifact(out / card.model_id, card, content, statistics)
    return card, probabilities


def _learnt_from(dataset: Dataset, former: Dataset | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return pictures (N, 224, 224, 3) of the training side and of the held-out side.

    If pictures of a former site were replayed, some of them are added to each: the network knows both sites.
    """
    sides = [dataset.pictures.pixels[side] for side in (dataset.training, dataset.held_out)]
    if former is not None:
        chance = np.random.default_rng(0)
        for number, side in enumerate((former.training, former.held_out)):
            some = former.pictures.pixels[np.sort(chance.permutation(side)[:_OF_FORMER])]
            sides[number] = np.concatenate([sides[number], some])
    return sides[0], sides[1]


def learn_the_rest(
    card: ModelCard, weights: bytes, training: NDArray[np.uint8], held_out: NDArray[np.uint8]
) -> tuple[ModelCard, bytes | None]:
    """Return a card with what is learnt of its weights: the familiarity of pictures, and faster formats.

    Pictures are (N, 224, 224, 3): those that the model learnt from, and those of other patients of the same
    hospital. The second value is the content of `familiarity.safetensors`, None of too few pictures.
    """
    learnt = learn_familiarity(card, weights, training, held_out)
    known = None if learnt is None else unpack_statistics(card, learnt.content)
    faster = learn_precisions(card, weights, held_out, known)
    more = {"familiarity": None if learnt is None else learnt.card, "precisions": faster}
    return card.model_copy(update=more), None if learnt is None else learnt.content


def check_candidate(folder: Path) -> None:
    """Build the network of an artefact and load its weights and its statistics, as a worker does.

    Raises ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch, ModelWeightsUnfit.
    """
    runtime = load_model(folder.resolve(), device="cpu")
    load_statistics(folder.resolve(), runtime.card)


def _provenance(
    dataset: Dataset, recipe: Recipe, initial: InitialWeights, fitted: Fitted
) -> dict[str, JsonValue]:
    """Return what explains the model years later, without a path or a file name of the data."""
    return {
        "recipe": asdict(recipe),
        "images": len(dataset),
        "held_out": len(dataset.held_out),
        "unreadable": len(dataset.pictures.unreadable),
        "data_fingerprint": dataset.summary().fingerprint,
        "initial_weights_digest": initial.digest,
        "epochs": [asdict(epoch) for epoch in fitted.epochs],
        "device": best_device().type,
        "precision": training_precision(best_device()),
        "threads": torch.get_num_threads(),
        "software": software(),  # type: ignore[dict-item]
    }


def _continued(initial: InitialWeights, former: Dataset | None) -> dict[str, JsonValue]:
    """Return the model that the training went on from, and which pictures were replayed."""
    if initial.model is None:
        return {}
    found: dict[str, JsonValue] = {"continued_from": initial.model}
    if former is not None:
        found |= {"replayed": len(former.training), "replayed_fingerprint": former.summary().fingerprint}
    return found


def _held_out_logits(runtime: TorchRuntime, dataset: Dataset) -> NDArray[np.float32]:
    """Return the logits (N, classes) of the held-out pictures, as screening computes them."""
    pixels, size = dataset.pictures.pixels[dataset.held_out], WorkerSettings.read().forward_images
    parts = [runtime.logits(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    return np.concatenate(parts)
