"""The promotion rules: which challenger may replace the champion."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.promotion import Decision, Site, decide
from training.outcome import Answers, HeldOut

N = 600
RANDOM = np.random.default_rng(0)
TRUTH = (np.arange(N) % 3 > 0).astype(np.int64)
TYPES = tuple(("BACTERIAL", "VIRAL")[i // 3 % 2] if TRUTH[i] else None for i in range(N))


def held_out(n: int = N) -> HeldOut:
    return HeldOut(
        classes=("NORMAL", "PNEUMONIA"),
        positives=("PNEUMONIA",),
        truth=TRUTH[:n],
        groups=np.arange(n),
        digests=("",) * n,
        pixels=np.zeros((n, 1, 1, 3), np.uint8),
        subgroups={"type": TYPES[:n]},
    )


def answers(name: str, wrong: np.ndarray, confidence: float = 0.9) -> Answers:
    """Answer correctly with a confidence, except for some images."""
    right = np.where(TRUTH == 1, confidence, 1 - confidence)
    return Answers(name, np.where(wrong, 1 - right, right), 0.5)


def wrong(share: float, side: int | None = None) -> np.ndarray:
    found = np.zeros(N, dtype=bool)
    eligible = np.flatnonzero(side == TRUTH) if side is not None else np.arange(N)
    found[RANDOM.choice(eligible, int(share * len(eligible)), replace=False)] = True
    return found


def failed(decision: Decision) -> list[str]:
    return [check.rule for check in decision.checks if not check.passed]


CHAMPION = answers("champion", wrong(0.03))


def test_an_equal_or_better_challenger_passes() -> None:
    same = decide(answers("c", CHAMPION.called != (TRUTH == 1)), CHAMPION, held_out())
    assert same.passed
    assert all("+0.000" in check.says for check in same.checks if check.rule == "sensitivity")
    assert decide(answers("c", wrong(0.0)), CHAMPION, held_out()).passed


@pytest.mark.parametrize(("side", "rule"), [(1, "sensitivity"), (0, "specificity")])
def test_an_inferior_challenger_is_refused_and_told_why(side: int, rule: str) -> None:
    decision = decide(answers("c", wrong(0.2, side)), CHAMPION, held_out())
    assert not decision.passed
    assert rule in failed(decision)
    assert any(reason.startswith(rule) and "inferior" in reason for reason in decision.reasons)


def test_too_few_images_prove_nothing() -> None:
    few = held_out(30)
    short = Answers("c", CHAMPION.probability[:30].copy(), 0.5)
    short.probability[1] = 0.1
    champion = Answers("champion", np.where(TRUTH[:30] == 1, 0.9, 0.1), 0.5)
    decision = decide(short, champion, few)
    assert not decision.passed
    assert any("too few images" in reason for reason in decision.reasons)


def test_a_challenger_that_is_worse_calibrated_is_refused() -> None:
    decision = decide(answers("c", wrong(0.0), confidence=0.51), CHAMPION, held_out())
    assert failed(decision) == ["calibration"]


def test_a_challenger_that_is_worse_in_a_subgroup_is_refused() -> None:
    viral = np.array([value == "VIRAL" for value in TYPES])
    misses = np.zeros(N, dtype=bool)
    misses[np.flatnonzero(viral)[:10]] = True
    champion = answers("champion", np.zeros(N, dtype=bool) | (np.arange(N) % 60 == 1))
    better = np.where(viral, misses, False)
    decision = decide(answers("c", better), champion, held_out())
    assert "sensitivity, type VIRAL" in failed(decision)
    assert "sensitivity, type BACTERIAL" not in failed(decision)


def former(challenger: Answers) -> Site:
    return Site(held_out(), challenger, graded("champion", 0.0))


def graded(name: str, noise: float) -> Answers:
    """Rank the images rightly, apart from some noise."""
    random = np.random.default_rng(3)
    return Answers(name, np.clip(TRUTH * 0.5 + 0.25 + random.normal(0, 0.1 + noise, N), 0, 1), 0.5)


def test_a_challenger_that_ranks_the_former_site_as_well_has_not_forgotten_it() -> None:
    same = graded("c", 0.0)
    # Its threshold is the new site's, and decides nothing here.
    moved = Answers("c", same.probability, 0.9)
    assert decide(CHAMPION, CHAMPION, held_out(), former=former(moved)).passed


def test_a_challenger_that_has_forgotten_the_former_site_is_refused() -> None:
    decision = decide(CHAMPION, CHAMPION, held_out(), former=former(graded("c", 0.3)))
    assert failed(decision) == ["former site"]
    assert "forgotten" in decision.reasons[0]


def test_a_sensitivity_that_a_person_asked_for_is_enough() -> None:
    champion, tuned = answers("champion", wrong(0.0)), answers("c", wrong(0.04, 1))
    assert "sensitivity" in failed(decide(tuned, champion, held_out()))
    assert "sensitivity" not in failed(decide(tuned, champion, held_out(), wanted=0.95))
    assert "sensitivity" in failed(decide(tuned, champion, held_out(), wanted=0.99))
