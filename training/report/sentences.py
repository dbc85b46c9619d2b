"""The results of a comparison in sentences that both a clinician and an engineer can check."""

from __future__ import annotations

from typing import Any

from db.text import counted
from training.outcome import FittedOn
from training.report.findings import Findings

#: With a lower sensitivity or specificity most images of one class are misread, whatever the AUC is.
_USELESS = 0.5

#: What the patient of an image is known from, by value of `training.data.patients.ToldBy`.
_TOLD_BY = {
    "header": "the Patient ID in the file",
    "label": "the patient of the label or the cohort",
    "name": "the number in the file's name",
    "folder": "the folder that the file is in",
    "nothing": "nothing, so that each file counts as a patient of its own",
}


def measure_text(measure: dict[str, float | None] | None) -> str:
    """Return a value with its interval, as in `0.981 (0.968 to 0.989)`."""
    if measure is None:
        return "fewer than 20"
    if measure["value"] is None:
        return "not known"
    return f"{measure['value']:.3f} ({measure['low']:.3f} to {measure['high']:.3f})"


def difference_text(measure: dict[str, float | None] | None) -> str:
    """Return a difference with its interval, as in `+0.012 (-0.003 to +0.027)`."""
    if measure is None or measure["value"] is None:
        return "not known"
    return f"{measure['value']:+.3f} ({measure['low']:+.3f} to {measure['high']:+.3f})"


def summary(findings: Findings) -> list[str]:
    """Return the main results."""
    return [*choice(findings), *_gate(findings), *_thumbnails(findings)]


def choice(findings: Findings) -> list[str]:
    """Return which backbone won and why, what it measures, and what speaks against it."""
    winner = _named(findings, findings["choice"]["winner"])
    measures = winner["measures"]
    return [
        f"{_reason(findings)} {_others(findings)}".strip(),
        f"{winner['name']}: AUC {measure_text(measures['AUC'])}; at its operating point sensitivity "
        f"{measure_text(measures['sensitivity'])}, specificity {measure_text(measures['specificity'])}.",
        *_warnings(winner),
    ]


def _reason(findings: Findings) -> str:
    names, chosen = [one["name"] for one in findings["backbones"]], findings["choice"]
    winner, level = chosen["winner"], chosen["level"]
    if len(names) == 1:
        return f"{winner} is the only backbone that was trained."
    if len(level) == 1:
        return f"{winner} is the winner: its AUC is higher than all others by more than noise."
    accuracies = {name: _value(findings, name, "accuracy") for name in level}
    best = [name for name in level if accuracies[name] == accuracies[winner]]
    listed = _listed(level, {name: f"{value:.3f}" for name, value in accuracies.items()})
    why = f"of these {winner} has the highest accuracy at its operating point ({listed})"
    if len(best) > 1:
        areas = {_value(findings, name, "AUC") for name in best}
        last = "higher AUC" if len(areas) > 1 else "lower validation loss"
        why = (
            f"of these {_and(best)} have the highest accuracy at their operating points ({listed}), and of "
            f"these {winner} has the {last}"
        )
    return f"{winner} is the winner. {_and(level)} are level, because their AUCs differ only by noise; {why}."


def _others(findings: Findings) -> str:
    """Return how the winner's answers differ from the others', and whether chance may have chosen it."""
    winner = findings["choice"]["winner"]
    pairs = [pair for pair in findings["paired"] if winner in (pair["one"], pair["other"])]
    rivals = [pair for pair in pairs if {pair["one"], pair["other"]} <= set(findings["choice"]["level"])]
    said = []
    if rivals and all(pair["better_answers"] is None for pair in rivals):
        said.append("The differences in accuracy are noise too: on other images another one could win.")
    beaten = [_other(pair, winner) for pair in pairs if pair["better_answers"] == winner]
    if beaten:
        said.append(f"Its answers are better than those of {_and(beaten)} by more than noise.")
    ahead = [_other(pair, winner) for pair in pairs if pair["better_answers"] not in (None, winner)]
    if ahead:
        said.append(
            f"But at the operating points the answers of {_and(ahead)} are better, by more than noise."
        )
    return " ".join(said)


def _other(pair: dict[str, Any], name: str) -> str:
    return str(pair["other"] if pair["one"] == name else pair["one"])


def _warnings(backbone: dict[str, Any]) -> list[str]:
    said = []
    for name, truth in (("sensitivity", "with pneumonia"), ("specificity", "without pneumonia")):
        value = backbone["measures"][name]["value"]
        if value is not None and value < _USELESS:
            said.append(
                f"Attention: at its operating point {backbone['name']} misreads {1 - value:.1%} of the "
                f"images {truth}. It cannot be used there, whatever its AUC is."
            )
    return said


def _gate(findings: Findings) -> list[str]:
    challenge = findings["challenge"]
    if challenge is None:
        return []
    answer = "yes" if challenge["passed"] else "no"
    return [
        f"The gate compared {challenge['backbone']} with the champion, {challenge['champion']}, on the same "
        f"images and says {answer}: {'; '.join(challenge['reasons'])}."
    ]


def _thumbnails(findings: Findings) -> list[str]:
    baseline, winner = findings["baseline"], findings["choice"]["winner"]
    area = _value(findings, winner, "AUC")
    if baseline["value"] is None or baseline["difference"] is None:
        return []
    difference = baseline["difference"]
    said = (
        "A logistic regression on 16x16 thumbnails, which show no lung, has an AUC of "
        f"{measure_text(baseline)}. {winner}'s minus that is {difference_text(difference)}"
    )
    if baseline["noise"] or difference["value"] <= 0 or area <= 0.5:
        verdict = "that is noise" if baseline["noise"] else "it is lower by more than noise"
        return [
            f"{said}: {verdict}. So nothing here shows that {winner} sees more than brightness and framing, "
            "which may be lost in another hospital."
        ]
    share = min(max(baseline["value"] - 0.5, 0.0) / (area - 0.5), 1.0)
    return [
        f"{said}: it is higher by more than noise. Brightness and framing alone reach {share:.0%} of what "
        f"{winner} gains over chance; that part may be lost in another hospital."
    ]


def fitting(findings: Findings) -> str:
    """Return which images fitted temperature and threshold, and which ones measure them."""
    images, patients = counted(findings["images"], "held-out image"), counted(findings["patients"], "patient")
    if findings["fitted_on"] == FittedOn.NOTHING:
        return (
            f"All figures are measured on the {images} ({patients}). This recipe sets the temperature to 1 "
            "and the threshold to 0.5, so no image fitted them."
        )
    fitted = (
        f"Each model's temperature and threshold were fitted on all {images} ({patients}), for a sensitivity "
        f"of {findings['settings']['target_sensitivity']}."
    )
    if findings["fitted_on"] == FittedOn.SAME_IMAGES:
        return (
            f"{fitted} The figures are measured on the same images, because there are too few patients to "
            "divide them: on other images sensitivity and specificity will be lower."
        )
    return (
        f"{fitted} The figures are cross-fitted: the images were divided by patient into "
        f"{findings['folds']} parts (seed {findings['settings']['seed']}), and each part is judged by a "
        "temperature and a threshold that the other parts fitted. So no image is judged by what it fitted "
        "itself. The AUC needs neither."
    )


def patients(told_by: dict[str, int]) -> str:
    """Return how the patients of the images were identified, and what that leaves unknown."""
    counts = [f"{_TOLD_BY[one]} ({counted(told_by[one], 'image')})" for one in _TOLD_BY if one in told_by]
    said = f"Patients were identified by {'; '.join(counts)}." if counts else ""
    if (alone := told_by.get("nothing", 0)) > 1:
        said += f" Several of those {alone} may be of one patient; that is not known."
    return said


def _named(findings: Findings, name: str) -> dict[str, Any]:
    return next(one for one in findings["backbones"] if one["name"] == name)


def _value(findings: Findings, name: str, measure: str) -> float:
    return float(_named(findings, name)["measures"][measure]["value"] or 0.0)


def _and(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _listed(names: list[str], values: dict[str, str]) -> str:
    return ", ".join(f"{name} {values[name]}" for name in names)
