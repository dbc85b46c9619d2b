"""The report's page: one HTML file that refers to no other files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from db.atomic import write_whole
from training.evaluation.measures import ALPHA
from training.report.charts import COLOURS, Axes, Line, chart
from training.report.findings import Findings

#: What the patient of an image is known from, by value of `training.data.patients.ToldBy`.
_TOLD_BY = {
    "header": "the Patient ID in the file",
    "label": "the patient of the label or the cohort",
    "name": "the number in the file's name",
    "folder": "the folder that the file is in",
    "nothing": "nothing, so that each file counts as a patient of its own",
}

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def write_report(findings: Findings, folder: Path) -> Path:
    """Write `report.json` and `report.html` into a folder, each whole or not at all; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "report.json", json.dumps(findings, indent=1) + "\n")
    return _write(folder / "report.html", page(findings))


def _write(file: Path, text: str) -> Path:
    with write_whole(file) as out:
        out.write(text.encode())
    return file


def page(findings: Findings) -> str:
    """Return the page as HTML."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"measure": measure_text, "p": lambda value: f"{value:.2g}"}
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        r=findings,
        summary=summary(findings),
        patients=_patients(findings["data"]["told_by"]),
        curves=[_curves(one) for one in findings["backbones"]],
        roc=_together(findings, "roc", Axes("ROC curves", "1 - specificity", "sensitivity")),
        precision_recall=_together(
            findings,
            "precision_recall",
            Axes("Precision and recall", "sensitivity (recall)", "PPV (precision)"),
        ),
        reliability=_reliability(findings),
    )


def measure_text(measure: dict[str, float | None] | None) -> str:
    """Return a value with its interval, as in `0.981 (0.968 to 0.989)`."""
    if measure is None:
        return "fewer than 20"
    if measure["value"] is None:
        return "not known"
    return f"{measure['value']:.3f} ({measure['low']:.3f} to {measure['high']:.3f})"


def summary(findings: Findings) -> list[str]:
    """Return the main results, in sentences that both a clinician and an engineer can check."""
    ranked = sorted(findings["backbones"], key=lambda one: one["measures"]["AUC"]["value"] or 0, reverse=True)
    best = ranked[0]
    measures = best["measures"]
    said = [
        f"{best['name']} has the highest AUC, {measure_text(measures['AUC'])}; at its operating point its "
        f"sensitivity is {measure_text(measures['sensitivity'])} and its specificity "
        f"{measure_text(measures['specificity'])}."
    ]
    differing = [one for one in findings["paired"] if one["mcnemar_holm"] < ALPHA]
    if differing:
        pairs = "; ".join(f"{one['one']} and {one['other']}" for one in differing)
        said.append(f"These pairs differ by more than noise: {pairs}. All other differences are noise.")
    elif findings["paired"]:
        said.append("No backbone differs from another by more than noise.")
    baseline = findings["baseline"]["value"]
    if baseline is not None and measures["AUC"]["value"] is not None:
        gained = (measures["AUC"]["value"] - 0.5) or 1
        said.append(
            f"A logistic regression on 16x16 thumbnails, which show no lung, has an AUC of {baseline:.3f}: "
            f"{max(0.0, (baseline - 0.5) / gained):.0%} of what the network gains over chance could be "
            "brightness and framing, and may be lost in another hospital."
        )
    return said


def _patients(told_by: dict[str, int]) -> str:
    """Return how the patients of the images were identified, and what that leaves unknown."""
    counts = [f"{_TOLD_BY[one]} ({told_by[one]} images)" for one in _TOLD_BY if one in told_by]
    said = f"Patients were identified by {'; '.join(counts)}." if counts else ""
    if alone := told_by.get("nothing"):
        said += f" Several of those {alone} may be of one patient; that is not known."
    return said


def _curves(backbone: dict[str, Any]) -> dict[str, Markup]:
    epochs = backbone["epochs"]
    across = (0.0, float(max(len(epochs) - 1, 1)))
    losses = [value for one in epochs for value in (one["train_loss"], one["valid_loss"])]
    loss = Axes(f"Loss of {backbone['name']}", "epoch", "loss", across, (0.0, max(losses) * 1.05))
    lowest = min(one["accuracy"] for one in epochs)
    accuracy = Axes(
        f"Accuracy of {backbone['name']}",
        "epoch",
        "accuracy",
        across,
        (max(0.0, 1 - (1 - lowest) * 1.2), 1.0),
    )

    def line(label: str, key: str, colour: str) -> Line:
        return Line(label, [(float(one["epoch"]), one[key]) for one in epochs], colour, dots=True)

    return {
        "loss": chart(
            loss, [line("training", "train_loss", COLOURS[0]), line("validation", "valid_loss", COLOURS[1])]
        ),
        "accuracy": chart(accuracy, [line("validation", "accuracy", COLOURS[1])]),
    }


def _together(findings: Findings, key: str, axes: Axes) -> Markup:
    lines = [
        Line(one["name"], one[key], COLOURS[index % len(COLOURS)])
        for index, one in enumerate(findings["backbones"])
    ]
    return chart(axes, lines)


def _reliability(findings: Findings) -> Markup:
    axes = Axes("Reliability", "predicted probability", "observed share of pneumonia")
    lines = [Line("perfect", [(0.0, 0.0), (1.0, 1.0)], "#999999", dashed=True)]
    for index, one in enumerate(findings["backbones"]):
        points = [(part["probability"], part["observed"]["value"]) for part in one["calibration"]["bins"]]
        lines.append(Line(one["name"], points, COLOURS[index % len(COLOURS)], dots=True))
    return chart(axes, lines)
