"""The drift of nights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from db.trust.profile import Profile
from scheduler.nightly.drift import FIGURES, Drift, drifts_of

#: Shares of a figure's groups.
EVEN, UNEVEN = np.full(10, 0.1), np.array([0.45, 0.1, 0.05, 0.03, 0.02, 0.02, 0.03, 0.05, 0.1, 0.15])


def night(counts: dict[str, dict[str, int]], model: str = "m") -> dict[str, Any]:
    """Return the part of a night's figures that a drift is made of."""
    return {"profile": Profile(counts=counts).as_json(), "models": {model: 1}}


def drawn(chance: np.random.Generator, shares: np.ndarray, images: int) -> dict[str, int]:
    counts = chance.multinomial(images, shares)
    return {str(group): int(count) for group, count in enumerate(counts) if count}


def drifts(tonight: dict[str, int], before: dict[str, int], figure: str = "age") -> list[Drift]:
    return drifts_of(night({figure: tonight}), [night({figure: before})])


def test_the_index_is_the_sum_over_the_groups() -> None:
    (one,) = drifts({"1-5": 2_000, "65+": 8_000}, {"1-5": 50_000, "65+": 50_000})
    assert one.psi == pytest.approx(0.3 * np.log(0.5 / 0.2) + 0.3 * np.log(0.8 / 0.5), rel=1e-2)
    assert one.changed
    assert one.name == "age in years"
    assert one.found == "0.42, changed; 1-5: 20%, before 50%"


@pytest.mark.parametrize("shares", [EVEN, UNEVEN])
@pytest.mark.parametrize(("images", "before"), [(50, 50), (50, 1_500), (500, 500), (500, 15_000)])
def test_a_night_like_the_others_is_no_change(shares: np.ndarray, images: int, before: int) -> None:
    chance = np.random.default_rng(images + before)
    found = [drifts(drawn(chance, shares, images), drawn(chance, shares, before))[0] for _ in range(300)]
    assert sum(one.changed for one in found) <= 3


def test_a_small_night_of_other_patients_is_a_change() -> None:
    chance = np.random.default_rng(0)
    children, adults = np.array([0.1, 0.7, 0.2, 0, 0, 0]), np.array([0, 0, 0.05, 0.25, 0.3, 0.4])
    found = [drifts(drawn(chance, adults, 50), drawn(chance, children, 1_500))[0] for _ in range(100)]
    assert sum(one.changed for one in found) >= 99


def test_a_tenth_is_named_by_both_of_its_ends() -> None:
    (one,) = drifts({"0.0": 20, "0.9": 80}, {"0.0": 1_000}, "probability")
    assert "0.9 to 1.0: 80%, before 0%" in one.found or "0.0 to 0.1: 20%, before 100%" in one.found


def test_fewer_than_fifty_images_on_either_side_say_nothing() -> None:
    assert drifts({"65+": 49}, {"1-5": 1_000}) == []
    assert drifts({"65+": 1_000}, {"1-5": 49}) == []
    assert drifts({"65+": 50}, {"1-5": 50}) != []


def test_the_nights_before_are_added_up() -> None:
    tonight, before = night({"age": {"1-5": 60}}), night({"age": {"1-5": 20}})
    assert drifts_of(tonight, [before] * 2) == []
    (one,) = drifts_of(tonight, [before] * 3)
    assert one.psi == pytest.approx(0)
    assert drifts_of(tonight, [{"models": {"m": 1}}] * 30) == [], "of an earlier version"


def test_headers_that_say_nothing_do_not_drift_until_they_say_something() -> None:
    assert drifts({"unknown": 500}, {"unknown": 5_000}) == []
    (one,) = drifts({"unknown": 500}, {"unknown": 500, "1-5": 4_500})
    assert one.changed
    assert "1-5: 0%, before 90%" in one.found


def test_the_name_of_a_manufacturer_is_not_shown() -> None:
    (one,) = drifts({"QZCANARY": 500}, {"A": 5_000}, "manufacturer")
    assert one.changed
    assert one.found == f"{one.psi:.2f}, changed"


def test_what_depends_on_the_model_is_compared_with_nights_of_the_same_models() -> None:
    counts = {figure: {"0.5": 60} for figure in FIGURES}
    before = [night(counts, "m"), night(counts, "older")]
    assert {one.figure for one in drifts_of(night(counts, "new"), before)} == {
        "manufacturer", "view", "age", "size",
    }  # fmt: skip
    assert {one.figure for one in drifts_of(night(counts, "m"), before)} == FIGURES.keys()
