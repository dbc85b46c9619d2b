"""The findings of a comparison, as the JSON values of `report.json`."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import asdict
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.evaluation.curves import precision_recall, roc
from training.evaluation.measures import (
    Measure,
    area_under_roc,
    predictive_values,
    proportion,
    rates,
    reliability,
)
from training.evaluation.paired import auc_difference, is_noise
from training.evaluation.promotion import Challenge
from training.evaluation.selection import RULE, Selection
from training.outcome import Answers, BackboneOutcome, Comparison, HeldOut

#: Subgroups with fewer images are not shown: they could identify patients.
SMALLEST_CELL = 20

#: How many misread images are shown, and the side of their thumbnails in pixels.
_SHOWN, _THUMBNAIL = 8, 112

#: Table 4 of the thesis: training loss, validation loss and accuracy on 1,046 images after 20 epochs.
THESIS = {
    "resnet18": (0.00281, 0.03105, 0.99331),
    "resnet34": (0.00276, 0.01952, 0.99522),
    "resnet50": (0.00135, 0.02583, 0.99618),
    "alexnet": (0.01294, 0.10771, 0.97610),
}
THESIS_IMAGES = 1046

Findings = dict[str, Any]


def build_report(
    comparison: Comparison, selection: Selection, challenge: Challenge | None = None
) -> Findings:
    """Return the content of a report as JSON values.

    It holds no path and no name of a file, unless the held-out images have names.
    """
    held_out, names = comparison.held_out, comparison.names
    backbones = [_backbone(index, comparison) for index in range(len(names))]
    return {
        "run": comparison.run_id,
        "finished_at": comparison.finished_at,
        "recipe": comparison.recipe,
        "settings": comparison.settings,
        "software": comparison.software,
        "device": comparison.device,
        "data": asdict(comparison.data),
        "classes": list(held_out.classes),
        "images": len(held_out.truth),
        "patients": len(np.unique(held_out.groups)),
        "share_of_pneumonia": float(held_out.positive.mean()),
        "fitted_on": str(comparison.fitted_on),
        "folds": comparison.folds,
        "choice": {
            "rule": RULE,
            "winner": names[selection.winner],
            "highest_auc": names[selection.highest],
            "level": [names[index] for index in selection.level],
        },
        "backbones": backbones,
        "seeds": _seeds(backbones) if len({one.seed for one in comparison.outcomes}) > 1 else [],
        "failed": [asdict(one) for one in comparison.failed],
        "paired": [asdict(one) for one in selection.pairs],
        "challenge": None if challenge is None else _challenge(challenge, comparison, selection),
        "baseline": _baseline(comparison, selection),
        "thesis": _thesis() if comparison.recipe == "thesis" else [],
        "continued_from": comparison.continued_from,
        "named": bool(held_out.names),
        "random_weights": sorted(
            {one.backbone for one in comparison.outcomes if one.initial_weights_digest is None}
        ),
    }


def _backbone(index: int, comparison: Comparison) -> Findings:
    outcome, answers, held_out = comparison.outcomes[index], comparison.answers[index], comparison.held_out
    positive, own = held_out.positive, outcome.answers(held_out)
    curve = roc(positive, own.score, held_out.groups)
    called = _classes_called(outcome, answers, held_out)
    sensitivity, specificity, accuracy = rates(positive, own.called)
    return {
        "name": comparison.names[index],
        "backbone": outcome.backbone,
        "seed": outcome.seed,
        "model": outcome.model_id,
        "epochs": [asdict(epoch) for epoch in outcome.epochs],
        "threshold": outcome.threshold,
        "temperature": outcome.temperature,
        "measures": _measures(answers, held_out),
        "measures_where_fitted": {
            "sensitivity": asdict(sensitivity),
            "specificity": asdict(specificity),
            "accuracy": asdict(accuracy),
        },
        "confusion": _confusion(called, held_out),
        "roc": curve.curve,
        "roc_band": curve.band,
        "operating_point": [1 - (specificity.value or 0.0), sensitivity.value or 0.0],
        "precision_recall": precision_recall(positive, own.score),
        "calibration": asdict(reliability(positive, answers.probability)),
        "subgroups": _subgroups(answers, held_out),
        "misread": int((called != held_out.truth).sum()),
        "misread_shown": _misread(outcome, answers, called, held_out),
        "seconds": outcome.seconds,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "initial_weights_digest": outcome.initial_weights_digest,
    }


def _measures(answers: Answers, held_out: HeldOut) -> dict[str, dict[str, float | None]]:
    positive = held_out.positive
    sensitivity, specificity, accuracy = rates(positive, answers.called)
    ppv, npv = predictive_values(positive, answers.called)
    found = {
        "AUC": area_under_roc(positive, answers.score, held_out.groups),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "PPV": ppv,
        "NPV": npv,
        "accuracy": accuracy,
    }
    return {name: asdict(one) for name, one in found.items()}


def _challenge(challenge: Challenge, comparison: Comparison, selection: Selection) -> Findings:
    """Return the gate's decision, and the measures of challenger and champion on the same images."""
    decision, champion, former = challenge.decision, challenge.champion, challenge.former
    compared = {"champion": champion, "challenger": comparison.answers[selection.winner]}
    return asdict(decision) | {
        "backbone": comparison.names[selection.winner],
        "reasons": decision.reasons,
        "measures": {
            role: None if answers is None else _measures(answers, comparison.held_out)
            for role, answers in compared.items()
        },
        "brier": {
            role: None
            if answers is None
            else reliability(comparison.held_out.positive, answers.probability).brier
            for role, answers in compared.items()
        },
        "former": None
        if former is None
        else {
            "images": len(former.images.truth),
            "measures": {
                "champion": _measures(former.champion, former.images),
                "challenger": _measures(former.challenger, former.images),
            },
        },
    }


def _baseline(comparison: Comparison, selection: Selection) -> Findings:
    """Return the AUC of the thumbnails, and by how much that of the winner is higher."""
    held_out, winner = comparison.held_out, comparison.answers[selection.winner]
    area = area_under_roc(held_out.positive, comparison.baseline, held_out.groups)
    found = auc_difference(held_out.positive, winner.score, comparison.baseline, held_out.groups)
    difference, p = found or (None, None)
    return asdict(area) | {
        "difference": None if difference is None else asdict(difference),
        "noise": is_noise(difference, p),
    }


def _classes_called(outcome: BackboneOutcome, answers: Answers, held_out: HeldOut) -> NDArray[np.int64]:
    """Return the class that each image is called, as indices into the classes: int64, (N,).

    It is a class of pneumonia if P(PNEUMONIA) is at or above the threshold, and another class if not.
    """
    columns = held_out.positive_columns
    others = [index for index in range(len(held_out.classes)) if index not in columns]
    called: NDArray[np.int64] = np.where(
        answers.called,
        np.array(columns)[outcome.probabilities[:, columns].argmax(axis=1)],
        np.array(others)[outcome.probabilities[:, others].argmax(axis=1)],
    )
    return called


def _confusion(called: NDArray[np.int64], held_out: HeldOut) -> list[list[int]]:
    """Return counts by truth (rows) and answer (columns)."""
    from sklearn.metrics import confusion_matrix

    labels = range(len(held_out.classes))
    matrix: list[list[int]] = confusion_matrix(held_out.truth, called, labels=labels).tolist()
    return matrix


def _subgroups(answers: Answers, held_out: HeldOut) -> list[Findings]:
    positive, called = held_out.positive, answers.called
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


def _misread(
    outcome: BackboneOutcome, answers: Answers, called: NDArray[np.int64], held_out: HeldOut
) -> list[Findings]:
    """Return the misread images with the highest loss, in the order of fastai's `plot_top_losses`."""
    of_truth = outcome.probabilities[np.arange(len(held_out.truth)), held_out.truth]
    thresholds = np.broadcast_to(answers.threshold, of_truth.shape)
    worst = [index for index in np.argsort(of_truth, kind="stable") if called[index] != held_out.truth[index]]
    return [
        {
            "name": held_out.names[index] if held_out.names else None,
            "digest": held_out.digests[index][:12],
            "truth": held_out.classes[held_out.truth[index]],
            "answer": held_out.classes[called[index]],
            "probability": float(answers.probability[index]),
            "threshold": float(thresholds[index]),
            "picture": _thumbnail(held_out.pixels[index]),
        }
        for index in worst[:_SHOWN]
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
