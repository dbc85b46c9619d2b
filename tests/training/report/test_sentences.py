"""The sentences of a report: what won, why, and what speaks against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from training.evaluation.promotion import Challenge, decide
from training.outcome import Answers, BackboneOutcome, Comparison
from training.recipe import RecipeName
from training.report.sentences import choice, fitting, patients, summary

#: The types of the fixtures `outcome`, `compare` and `report`.
Outcome = Callable[..., BackboneOutcome]
Compared = Callable[..., Comparison]
Reported = Callable[..., dict[str, Any]]


def test_the_winner_of_the_sentence_the_table_and_the_gate_is_one(
    outcome: Outcome, compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    # alexnet has the highest AUC by noise, and its threshold misreads most normal images.
    first = outcome("alexnet", 2.5, truth, threshold=0.02)
    comparison = compare(first, outcome("resnet18", 3.0, truth, threshold=0.5))
    findings = report(comparison)
    areas = {one["name"]: one["measures"]["AUC"]["value"] for one in findings["backbones"]}
    assert max(areas, key=areas.__getitem__) == "alexnet"
    assert findings["choice"]["winner"] == "resnet18"
    said = choice(findings)
    assert said[0].startswith("resnet18 is the winner. alexnet and resnet18 are level")
    assert "of these resnet18 has the highest accuracy at its operating point (alexnet 0." in said[0]
    assert said[1].startswith("resnet18: AUC 0.")
    assert not any(word in " ".join(said) for word in ("alexnet is better", "Attention"))


def test_the_sentence_names_what_decided_between_equally_accurate_backbones(
    outcome: Outcome, compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    first = outcome("resnet18", 1.0, truth)
    lower = tuple(replace(epoch, valid_loss=0.001) for epoch in first.epochs)
    equal = replace(first, backbone="resnet34", model_id="resnet34-0123456789ab", epochs=lower)
    findings = report(compare(first, equal))
    assert findings["choice"]["winner"] == "resnet34"
    said = choice(findings)[0]
    assert "resnet18 and resnet34 have the highest accuracy at their operating points (resnet18 " in said
    assert said.count("and of these resnet34 has the lower validation loss.") == 1


def test_differences_of_noise_are_called_noise_and_no_others_are(
    outcome: Outcome, compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    close = report(compare(outcome("resnet18", 2.0, truth), outcome("resnet34", 2.05, truth, seed=7)))
    assert "The differences in accuracy are noise too" in choice(close)[0]
    assert all("that is noise" in pair["says"] for pair in close["paired"])
    far = report(compare(outcome("resnet18", 8.0, truth), outcome("resnet50", 0.5, truth)))
    assert choice(far)[0].startswith(
        "resnet50 is the winner: its AUC is higher than all others by more than noise."
    )
    assert "Its answers are better than those of resnet18 by more than noise." in choice(far)[0]


def test_a_winner_that_misreads_most_images_of_a_class_is_flagged(
    outcome: Outcome, compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    alone = report(compare(outcome("alexnet", 3.0, truth, threshold=0.01)))
    said = choice(alone)
    assert said[0] == "alexnet is the only backbone that was trained."
    assert said[-1].startswith("Attention: at its operating point alexnet misreads ")
    assert "of the images without pneumonia" in said[-1]
    blind = report(compare(outcome("alexnet", 3.0, truth, threshold=0.9999)))
    assert "of the images with pneumonia" in choice(blind)[-1]


def test_better_answers_of_a_loser_are_not_kept_back(
    outcome: Outcome, compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    # By AUC resnet50 wins clearly, but its threshold calls everything pneumonia.
    comparison = compare(outcome("resnet18", 2.5, truth), outcome("resnet50", 0.5, truth, threshold=1e-9))
    said = choice(report(comparison))
    assert "But at the operating points the answers of resnet18 are better, by more than noise." in said[0]
    assert said[-1].startswith("Attention")


def test_thumbnails_never_reach_more_than_what_the_network_gains(
    compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    def said(baseline: np.ndarray) -> str:
        return summary(report(compare(baseline=baseline)))[-1]

    random = np.random.default_rng(3)
    assert "% of what resnet50 gains over chance" in said(random.random(len(truth)))
    weak = said(random.normal(truth, 1.0))
    assert "it is higher by more than noise" in weak
    for equal in (truth + random.normal(0, 0.05, len(truth)), truth.astype(float)):
        sentence = said(equal)
        assert "nothing here shows that resnet50 sees more than brightness and framing" in sentence
        assert "%" not in sentence
    worse = 1.0 - truth
    assert "0% of what" in said(worse)


def test_the_gate_is_asked_about_the_winner_and_its_answer_is_in_the_summary(
    compare: Compared, report: Reported
) -> None:
    comparison = compare(recipe=RecipeName.CLINICAL)
    champion = Answers("champion-0123456789ab", comparison.answers[0].probability, 0.5)
    decision = decide(comparison.answers[1], champion, comparison.held_out)
    said = summary(report(comparison, Challenge(decision, champion)))
    gate = next(sentence for sentence in said if sentence.startswith("The gate"))
    assert gate.startswith("The gate compared resnet50 with the champion, champion-0123456789ab, on the same")
    assert f"says {'yes' if decision.passed else 'no'}: {decision.reasons[0]}" in gate
    assert not any(sentence.startswith("The gate") for sentence in summary(report(comparison)))


def test_it_is_said_which_images_fitted_the_threshold(compare: Compared, report: Reported) -> None:
    assert "no image fitted them" in fitting(report(compare()))
    crossed = fitting(report(compare(recipe=RecipeName.CLINICAL)))
    assert "fitted on all 200 held-out images (100 patients), for a sensitivity of 0.97" in crossed
    assert "divided by patient into 5 parts (seed 42)" in crossed
    comparison = compare()
    one = replace(comparison.held_out, groups=np.zeros(len(comparison.held_out.truth), dtype=np.int64))
    alone = fitting(report(compare(recipe=RecipeName.CLINICAL, held_out=one)))
    assert "on the same images, because there are too few patients" in alone


def test_it_is_said_how_patients_were_identified() -> None:
    said = patients({"name": 350, "nothing": 250})
    assert "the number in the file's name (350 images)" in said
    assert "Several of those 250 may be of one patient; that is not known." in said
    few = patients({"header": 1, "nothing": 1})
    assert "in the file (1 image)" in few
    assert "Several" not in few
    assert patients({"header": 600}) == "Patients were identified by the Patient ID in the file (600 images)."
