"""The verdict of an acceptance, and the figures that it rests on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from db.models.card import ModelCard
from db.models.store import read_card
from training.acceptance.criteria import Criteria, Verdict, judge
from training.acceptance.figures import Figures, figures_of
from training.outcome import Answers, HeldOut

Site = Callable[..., tuple[HeldOut, Answers]]


@pytest.fixture
def card(artefact: Path) -> ModelCard:
    return read_card(artefact)


@pytest.fixture
def measured(site: Site, card: ModelCard) -> Callable[..., Figures]:
    def measure(**counts: int) -> Figures:
        images, answers = site(**counts)
        return figures_of(answers, images, card)

    return measure


def verdict(figures: Figures, **criteria: Any) -> Verdict:
    return judge(figures, Criteria(**criteria))


def test_a_model_is_accepted_if_the_lower_ends_of_its_intervals_reach_the_criteria(
    measured: Callable[..., Figures],
) -> None:
    good = verdict(measured(missed=6, called=20))
    assert good.accepted
    assert len(good.reasons) == 4
    # The value is above the criterion, but its interval is not.
    unsure = verdict(measured(missed=16, called=20))
    assert not unsure.accepted
    assert any("too few images to say" in reason for reason in unsure.reasons)


@pytest.mark.parametrize(("wrong", "name"), [("missed", "sensitivity"), ("called", "specificity")])
def test_a_model_that_is_worse_is_not_accepted_and_the_reason_says_so(
    measured: Callable[..., Figures], wrong: str, name: str
) -> None:
    bad = verdict(measured(**{wrong: 80}))
    assert not bad.accepted
    (reason,) = (one for one in bad.reasons if one.startswith(name))
    assert reason.endswith("it is lower")


def test_a_perfect_model_on_too_few_patients_is_not_accepted(measured: Callable[..., Figures]) -> None:
    few = verdict(measured(positive=49), sensitivity=0.5)
    assert not few.accepted
    assert "too few to say" in few.reasons[0]
    # Images of few patients are few, too.
    assert not verdict(measured(each=10), sensitivity=0.5, specificity=0.5).accepted


def test_criteria_can_be_set(measured: Callable[..., Figures]) -> None:
    figures = measured(missed=30, called=60)
    assert not verdict(figures).accepted
    assert verdict(figures, sensitivity=0.75, specificity=0.6).accepted


def test_several_images_of_a_patient_widen_the_intervals(measured: Callable[..., Figures]) -> None:
    alone, together = measured(missed=20), measured(missed=20, each=10)
    assert alone.sensitivity.value == together.sensitivity.value
    assert alone.sensitivity.low is not None
    assert together.sensitivity.low is not None
    assert together.sensitivity.low < alone.sensitivity.low - 0.02


def test_calibration_tells_extreme_and_shifted_probabilities(site: Site, card: ModelCard) -> None:
    random = np.random.default_rng(1)
    images, _ = site(positive=1000, negative=1000)
    odds = random.normal(0, 1.5, 4000)
    truth = random.random(4000) < 1 / (1 + np.exp(-odds))
    ones, zeros = odds[truth][:1000], odds[~truth][:1000]
    true_odds = np.concatenate([ones, zeros])

    def measure(shown: np.ndarray) -> Figures:
        return figures_of(Answers("m", 1 / (1 + np.exp(-shown)), 0.5), images, card)

    right = measure(true_odds).calibration
    assert right.slope.value == pytest.approx(1, abs=0.15)
    assert right.in_the_large.value == pytest.approx(0, abs=0.2)
    assert measure(true_odds * 2).calibration.slope.value == pytest.approx(0.5, abs=0.08)
    shifted = measure(true_odds + 2).calibration
    assert shifted.in_the_large.high is not None
    assert shifted.in_the_large.high < -1.5
    assert shifted.brier > right.brier


def test_a_calibration_that_images_do_not_determine_is_not_known(measured: Callable[..., Figures]) -> None:
    # Probabilities that separate the classes have no finite slope.
    assert measured().calibration.slope.value is None


def test_small_subgroups_are_not_shown(site: Site, card: ModelCard) -> None:
    images, answers = site(positive=50, negative=30)
    found = {one.value: one for one in figures_of(answers, images, card).subgroups}
    assert found["male"].sensitivity is not None
    assert found["male"].specificity is None
