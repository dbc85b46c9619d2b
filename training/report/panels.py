"""The charts of the report's page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from training.report.charts import COLOURS, GREY, Axes, Band, Line, Ring, chart, scale
from training.report.findings import Findings

#: If all AUCs are above this, the curves lie in one corner, which is drawn larger.
_NEAR_PERFECT = 0.95


def colour_of(index: int) -> str:
    """Return the colour of a backbone in all charts."""
    return COLOURS[index % len(COLOURS)]


def overview(findings: Findings) -> dict[str, Markup]:
    """Return the charts of all backbones together; there is a `corner` if all curves lie in it."""
    found = {"roc": _all_rocs(findings, "ROC curves"), "precision_recall": _precision_recall(findings)}
    areas = [one["measures"]["AUC"]["value"] for one in findings["backbones"]]
    if all(area is not None and area > _NEAR_PERFECT for area in areas):
        found["corner"] = _all_rocs(findings, "ROC curves, upper left corner", corner=True)
    return found


def panels(backbone: dict[str, Any], index: int) -> dict[str, Markup]:
    """Return the charts of one backbone: ROC, reliability, loss and accuracy."""
    return {
        "roc": _roc(backbone, colour_of(index)),
        "reliability": _reliability(backbone, colour_of(index)),
        **_epochs(backbone),
    }


def _all_rocs(findings: Findings, title: str, *, corner: bool = False) -> Markup:
    ranges = {"x": scale(0, 0.2), "y": scale(0.8, 1)} if corner else {}
    axes = Axes(title, "1 - specificity", "sensitivity", square=True, **ranges)
    lines = [] if corner else [_diagonal("chance")]
    bands, rings = [], []
    for index, one in enumerate(findings["backbones"]):
        lines.append(Line(one["name"], one["roc"], colour_of(index)))
        bands.append(Band(one["roc_band"], colour_of(index)))
        rings.append(Ring(tuple(one["operating_point"]), colour_of(index)))
    return chart(axes, lines, bands, rings)


def _roc(backbone: dict[str, Any], colour: str) -> Markup:
    axes = Axes(f"ROC of {backbone['name']}", "1 - specificity", "sensitivity", square=True)
    return chart(
        axes,
        [_diagonal(), Line("", backbone["roc"], colour)],
        [Band(backbone["roc_band"], colour)],
        [Ring(tuple(backbone["operating_point"]), colour)],
    )


def _diagonal(label: str = "") -> Line:
    return Line(label, [(0.0, 0.0), (1.0, 1.0)], GREY, dashed=True)


def _precision_recall(findings: Findings) -> Markup:
    axes = Axes("Precision and recall", "sensitivity (recall)", "PPV (precision)", square=True)
    share = findings["share_of_pneumonia"]
    lines = [Line("chance", [(0.0, share), (1.0, share)], GREY, dashed=True)]
    lines += [
        Line(one["name"], one["precision_recall"], colour_of(index))
        for index, one in enumerate(findings["backbones"])
    ]
    return chart(axes, lines)


def _reliability(backbone: dict[str, Any], colour: str) -> Markup:
    axes = Axes(
        f"Reliability of {backbone['name']}",
        "predicted probability",
        "observed share of pneumonia",
        square=True,
    )
    bins = backbone["calibration"]["bins"]
    points = [(one["probability"], one["observed"]["value"]) for one in bins]
    bars = [(one["probability"], one["observed"]["low"], one["observed"]["high"]) for one in bins]
    return chart(axes, [_diagonal(), Line("", points, colour, dots=True)], [Band(bars, colour, bars=True)])


def _epochs(backbone: dict[str, Any]) -> dict[str, Markup]:
    epochs = backbone["epochs"]
    across = scale(0, max(len(epochs) - 1, 1), whole=True)
    losses = [value for one in epochs for value in (one["train_loss"], one["valid_loss"])]
    loss = Axes(f"Loss of {backbone['name']}", "epoch", "loss", across, scale(0, max(losses)))
    lowest = min(one["accuracy"] for one in epochs)
    shares = scale(min(lowest, 0.99), 1)
    accuracy = Axes(f"Accuracy of {backbone['name']}", "epoch", "accuracy", across, shares)

    def line(label: str, key: str, colour: str) -> Line:
        return Line(label, [(float(one["epoch"]), one[key]) for one in epochs], colour, dots=True)

    return {
        "loss": chart(
            loss, [line("training", "train_loss", COLOURS[0]), line("validation", "valid_loss", COLOURS[1])]
        ),
        "accuracy": chart(accuracy, [line("validation", "accuracy", COLOURS[1])]),
    }
