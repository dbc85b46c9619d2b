"""The findings of a comparison, against an independent count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from training.evaluation.promotion import Challenge, decide, incomparable
from training.outcome import Answers, BackboneOutcome, Comparison
from training.recipe import RecipeName

#: The types of the fixtures `outcome`, `compare` and `report`.
Outcome = Callable[..., BackboneOutcome]
Compared = Callable[..., Comparison]
Reported = Callable[..., dict[str, Any]]


def test_measures_are_those_of_an_independent_count(compare: Compared, report: Reported) -> None:
    from sklearn.metrics import brier_score_loss, roc_auc_score

    comparison = compare()
    found = report(comparison)["backbones"][0]
    positive = comparison.held_out.positive
    probability = comparison.outcomes[0].answers(comparison.held_out).probability
    called = probability >= 0.4
    assert found["measures"]["AUC"]["value"] == pytest.approx(roc_auc_score(positive, probability))
    assert found["measures"]["AUC"]["low"] < found["measures"]["AUC"]["value"]
    assert found["measures"]["sensitivity"]["value"] == pytest.approx(called[positive].mean())
    assert found["measures"]["PPV"]["value"] == pytest.approx(positive[called].mean())
    assert found["measures"]["NPV"]["value"] == pytest.approx((~positive)[~called].mean())
    assert found["calibration"]["brier"] == pytest.approx(brier_score_loss(positive, probability))
    assert found["confusion"] == [
        [int((~called & ~positive).sum()), int((called & ~positive).sum())],
        [int((~called & positive).sum()), int((called & positive).sum())],
    ]
    assert found["operating_point"] == pytest.approx([called[~positive].mean(), called[positive].mean()])
    assert found["misread"] == int((called != positive).sum())
    worst = found["misread_shown"][0]
    of_truth = np.where(positive, probability, 1 - probability)
    assert worst["probability"] == pytest.approx(probability[of_truth.argmin()])


def test_figures_of_the_clinical_recipe_are_cross_fitted_throughout(
    compare: Compared, report: Reported
) -> None:
    comparison = compare(recipe=RecipeName.CLINICAL)
    findings = report(comparison)
    assert (findings["fitted_on"], findings["folds"], findings["patients"]) == ("other patients", 5, 100)
    positive = comparison.held_out.positive
    for found, answers, outcome in zip(
        findings["backbones"], comparison.answers, comparison.outcomes, strict=True
    ):
        called = answers.called
        assert found["measures"]["specificity"]["value"] == pytest.approx((~called)[~positive].mean())
        assert found["confusion"][0][1] == int((called & ~positive).sum())
        assert found["misread"] == int((called != positive).sum())
        own = outcome.answers(comparison.held_out)
        fitted = found["measures_where_fitted"]
        assert fitted["sensitivity"]["value"] == pytest.approx(own.called[positive].mean())
        assert found["calibration"]["brier"] == pytest.approx(((answers.probability - positive) ** 2).mean())


def test_only_misread_images_are_shown_as_misread(compare: Compared, report: Reported) -> None:
    for found in report(compare(recipe=RecipeName.CLINICAL))["backbones"]:
        assert len(found["misread_shown"]) == min(8, found["misread"])
        for film in found["misread_shown"]:
            assert film["truth"] != film["answer"]
            assert (film["answer"] == "PNEUMONIA") == (film["probability"] >= film["threshold"])


def test_files_are_named_only_if_the_run_asks_for_it(compare: Compared, report: Reported) -> None:
    comparison = compare()
    assert all(
        film["name"] is None for one in report(comparison)["backbones"] for film in one["misread_shown"]
    )
    names = tuple(f"NORMAL/{index}.png" for index in range(len(comparison.held_out.truth)))
    named = replace(comparison, held_out=replace(comparison.held_out, names=names))
    for film in report(named)["backbones"][0]["misread_shown"]:
        index = int(film["name"].removeprefix("NORMAL/").removesuffix(".png"))
        assert comparison.held_out.digests[index].startswith(film["digest"])


def test_champion_and_challenger_are_measured_on_the_same_images(compare: Compared, report: Reported) -> None:
    comparison = compare(recipe=RecipeName.CLINICAL)
    held_out = comparison.held_out
    champion = Answers("champion-0123456789ab", comparison.answers[0].probability, 0.9)
    winner = comparison.answers[1]
    found = report(comparison, Challenge(decide(winner, champion, held_out), champion))["challenge"]
    assert found["backbone"] == "resnet50"
    positive = held_out.positive
    for role, answers in (("champion", champion), ("challenger", winner)):
        measured = found["measures"][role]
        assert measured["sensitivity"]["value"] == pytest.approx(answers.called[positive].mean())
    sensitivity = next(check for check in found["checks"] if check["rule"] == "sensitivity")
    difference = (
        found["measures"]["challenger"]["sensitivity"]["value"]
        - found["measures"]["champion"]["sensitivity"]["value"]
    )
    assert sensitivity["difference"] == pytest.approx(difference)


def test_a_champion_that_cannot_be_used_is_in_the_report_without_figures(
    compare: Compared, report: Reported
) -> None:
    from db.models.card import ModelPreprocessingMismatch

    decision = incomparable("resnet50-1", "champion-1", ModelPreprocessingMismatch())
    found = report(compare(), Challenge(decision, None))["challenge"]
    assert (found["passed"], found["measures"]["champion"]) == (False, None)


def test_cells_under_20_are_not_shown(compare: Compared, report: Reported) -> None:
    rows = {(row["attribute"], row["value"]): row for row in report(compare())["backbones"][0]["subgroups"]}
    few = rows["sex", "female"]
    assert (few["specificity"], few["specificity_n"]) == (None, None)
    assert few["sensitivity_n"] == 22
    assert rows["type", "VIRAL"]["specificity"] is None


def test_one_backbone_alone_and_several_seeds_are_reported(
    outcome: Outcome, compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    alone = report(compare(outcome("resnet18", 3.0, truth)))
    assert (alone["paired"], alone["seeds"]) == ([], [])
    found = report(compare(outcome("resnet18", 2.0, truth), outcome("resnet18", 2.0, truth, seed=43)))
    assert [one["name"] for one in found["backbones"]] == ["resnet18 (seed 42)", "resnet18 (seed 43)"]
    assert found["seeds"][0]["AUC"]["low"] <= found["seeds"][0]["AUC"]["value"]


def test_reliability_is_grouped_by_quantiles_with_their_counts(compare: Compared, report: Reported) -> None:
    bins = report(compare())["backbones"][0]["calibration"]["bins"]
    assert [one["n"] for one in bins] == [20] * 10
    assert [one["probability"] for one in bins] == sorted(one["probability"] for one in bins)
