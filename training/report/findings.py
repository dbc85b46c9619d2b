"""The findings of a comparison, as the JSON values of `report.json`."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import asdict, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.evaluation.measures import (
    Measure,
    area_under_roc,
    measure,
    predictive_values,
    proportion,
    reliability,
)
from training.evaluation.paired import compare_all
from training.outcome import BackboneOutcome, Comparison, HeldOut

#: Subgroups with fewer images are not shown: they could identify patients.
SMALLEST_CELL = 20

#: How many images with the highest loss are shown, and the side of their thumbnails in pixels.
_CONFUSED, _THUMBNAIL = 8, 112

#: The most points of a drawn curve.
_POINTS = 200

#: Table 4 of the thesis: training loss, validation loss and accuracy on 1,046 images after 20 epochs.
THESIS = {
    "resnet18": (0.00281, 0.03105, 0.99331),
    "resnet34": (0.00276, 0.01952, 0.99522),
    "resnet50": (0.00135, 0.02583, 0.99618),
    "alexnet": (0.01294, 0.10771, 0.97610),
}
THESIS_IMAGES = 1046

Findings = dict[str, Any]


def build_report(comparison: Comparison) -> Findings:
    """Return the content of a report as JSON values. It holds no path and no name of a file."""
    held_out = comparison.held_out
    several = len({one.seed for one in comparison.outcomes}) > 1
    names = {
        id(one): f"{one.backbone} (seed {one.seed})" if several else one.backbone
        for one in comparison.outcomes
    }
    answers = [replace(one.answers(held_out), model=names[id(one)]) for one in comparison.outcomes]
    backbones = [_backbone(one, names[id(one)], comparison) for one in comparison.outcomes]
    baseline = area_under_roc(held_out.positive, comparison.baseline, held_out.groups)
    return {
        "run": comparison.run_id,
        "finished_at": comparison.finished_at,
        "recipe": comparison.recipe,
        "settings": comparison.settings,
        "software": comparison.software,
        "device": comparison.device,
        "data": asdict(comparison.data),
        "classes": list(held_out.classes),
        "backbones": backbones,
        "seeds": _seeds(backbones) if several else [],
        "failed": [asdict(one) for one in comparison.failed],
        "paired": [asdict(one) for one in compare_all(held_out.positive, answers)],
        "baseline": asdict(baseline),
        "thesis": _thesis() if comparison.recipe == "thesis" else [],
        "random_weights": sorted(
            {one.backbone for one in comparison.outcomes if one.initial_weights_digest is None}
        ),
    }


def _backbone(outcome: BackboneOutcome, name: str, comparison: Comparison) -> Findings:
    held_out = comparison.held_out
    positive, probability = held_out.positive, outcome.answers(held_out).probability
    found = measure(positive, probability, outcome.threshold)
    ppv, npv = predictive_values(positive, probability, outcome.threshold)
    measures = {
        "sensitivity": found.sensitivity,
        "specificity": found.specificity,
        "PPV": ppv,
        "NPV": npv,
        "accuracy": found.accuracy,
        "AUC": area_under_roc(positive, probability, held_out.groups),
    }
    return {
        "name": name,
        "backbone": outcome.backbone,
        "seed": outcome.seed,
        "model": outcome.model_id,
        "epochs": [asdict(epoch) for epoch in outcome.epochs],
        "threshold": outcome.threshold,
        "temperature": outcome.temperature,
        "measures": {name: asdict(one) for name, one in measures.items()},
        "confusion": _confusion(outcome, held_out),
        "roc": _roc(positive, probability),
        "precision_recall": _precision_recall(positive, probability),
        "calibration": asdict(reliability(positive, probability)),
        "subgroups": _subgroups(outcome, held_out),
        "confused": _confused(outcome, held_out),
        "seconds": outcome.seconds,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "initial_weights_digest": outcome.initial_weights_digest,
    }


def _confusion(outcome: BackboneOutcome, held_out: HeldOut) -> list[list[int]]:
    """Return counts by truth (rows) and answer (columns).

    The answer is a class of pneumonia if P(PNEUMONIA) is at or above the threshold, and another class if not.
    """
    from sklearn.metrics import confusion_matrix

    columns = held_out.positive_columns
    others = [index for index in range(len(held_out.classes)) if index not in columns]
    called = outcome.answers(held_out).called
    answer = np.where(
        called,
        np.array(columns)[outcome.probabilities[:, columns].argmax(axis=1)],
        np.array(others)[outcome.probabilities[:, others].argmax(axis=1)],
    )
    matrix: list[list[int]] = confusion_matrix(
        held_out.truth, answer, labels=range(len(held_out.classes))
    ).tolist()
    return matrix


def _roc(positive: NDArray[np.bool_], probability: NDArray[np.float64]) -> list[list[float]]:
    from sklearn.metrics import roc_curve

    if positive.all() or not positive.any():
        return []
    across, along, _ = roc_curve(positive, probability)
    return _thinned(across, along)


def _precision_recall(positive: NDArray[np.bool_], probability: NDArray[np.float64]) -> list[list[float]]:
    from sklearn.metrics import precision_recall_curve

    if not positive.any():
        return []
    precision, recall, _ = precision_recall_curve(positive, probability)
    return _thinned(recall[::-1], precision[::-1])


def _thinned(across: NDArray[np.float64], along: NDArray[np.float64]) -> list[list[float]]:
    kept = np.unique(np.linspace(0, len(across) - 1, _POINTS).round().astype(int))
    return [[float(across[index]), float(along[index])] for index in kept]


def _subgroups(outcome: BackboneOutcome, held_out: HeldOut) -> list[Findings]:
    positive = held_out.positive
    called = outcome.answers(held_out).called
    found: list[Findings] = []
    for attribute, values in held_out.subgroups.items():
        for value in sorted({value for value in values if value}):
            inside = np.array([one == value for one in values])
            row: Findings = {"attribute": attribute, "value": value}
            for name, side in (("sensitivity", positive), ("specificity", ~positive)):
                cell = inside & side
                shown = int(cell.sum()) >= SMALLEST_CELL
                right = int((called == positive)[cell].sum())
                row[name] = asdict(proportion(right, int(cell.sum()))) if shown else None
                row[f"{name}_n"] = int(cell.sum()) if shown else None
            found.append(row)
    return found


def _confused(outcome: BackboneOutcome, held_out: HeldOut) -> list[Findings]:
    """Return the images with the highest loss, as fastai's `plot_top_losses` shows them."""
    of_truth = outcome.probabilities[np.arange(len(held_out.truth)), held_out.truth]
    worst = np.argsort(of_truth, kind="stable")[:_CONFUSED]
    probability = outcome.answers(held_out).probability
    return [
        {
            "digest": held_out.digests[index][:12],
            "truth": held_out.classes[held_out.truth[index]],
            "probability": float(probability[index]),
            "picture": _thumbnail(held_out.pixels[index]),
        }
        for index in worst
    ]


def _thumbnail(pixels: NDArray[np.uint8]) -> str:
    file = BytesIO()
    Image.fromarray(pixels).convert("L").resize((_THUMBNAIL, _THUMBNAIL)).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + b64encode(file.getvalue()).decode()


def _seeds(backbones: list[Findings]) -> list[Findings]:
    """Return each backbone's AUC and accuracy over its seeds: mean, lowest, highest."""
    found = []
    for backbone in dict.fromkeys(one["backbone"] for one in backbones):
        row: Findings = {"backbone": backbone}
        for name in ("AUC", "accuracy"):
            values = [one["measures"][name]["value"] for one in backbones if one["backbone"] == backbone]
            known = [value for value in values if value is not None]
            if known:
                row[name] = asdict(Measure(float(np.mean(known)), min(known), max(known)))
        found.append(row)
    return found


def _thesis() -> list[Findings]:
    """Return the thesis' table 4, and Wilson's intervals of the accuracy, which the thesis does not give."""
    return [
        {
            "backbone": backbone,
            "train_loss": train_loss,
            "valid_loss": valid_loss,
            "accuracy": asdict(proportion(round(accuracy * THESIS_IMAGES), THESIS_IMAGES)),
        }
        for backbone, (train_loss, valid_loss, accuracy) in THESIS.items()
    ]
