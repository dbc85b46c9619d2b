"""A comparison with made-up answers, and the report of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from training.evaluation.cross_fitting import plan_cross_fitting
from training.evaluation.promotion import Challenge
from training.evaluation.selection import select
from training.outcome import BackboneOutcome, Comparison, DataSummary, EpochResult, FailedBackbone, HeldOut
from training.recipe import RECIPES, RecipeName
from training.report.findings import Findings, build_report

N = 200


def make_outcome(
    backbone: str, noise: float, truth: np.ndarray, seed: int = 42, **changes: Any
) -> BackboneOutcome:
    """Make an outcome whose answers are the worse the more noise there is."""
    random = np.random.default_rng(seed + len(backbone))
    logit = (truth * 2.0 - 1) * 3 + random.normal(0, noise, len(truth))
    probability = 1 / (1 + np.exp(-logit))
    made = BackboneOutcome(
        backbone=backbone,
        seed=seed,
        model_id=f"{backbone}-{seed:012x}",
        epochs=tuple(
            EpochResult(epoch=n, train_loss=0.9 / (n + 1), valid_loss=1.0 / (n + 1), accuracy=0.8 + n / 20)
            for n in range(3)
        ),
        probabilities=np.stack([1 - probability, probability], axis=1),
        temperature=1.1,
        threshold=0.4,
        seconds=90.0,
        peak_memory_bytes=2_000_000_000,
        initial_weights_digest="ab" * 32,
    )
    return replace(made, **changes)


def make_comparison(
    *outcomes: BackboneOutcome, recipe: RecipeName = RecipeName.THESIS, **changes: Any
) -> Comparison:
    """Make a comparison of these outcomes, by default of two, as `training.run.conclusion` does."""
    truth = TRUTH
    outcomes = outcomes or (make_outcome("resnet18", 3.0, truth), make_outcome("resnet50", 1.0, truth))
    kinds = tuple("BACTERIAL" if i % 8 < 4 else "VIRAL" for i in range(N))
    held_out = changes.pop("held_out", None) or HeldOut(
        classes=("NORMAL", "PNEUMONIA"),
        positives=("PNEUMONIA",),
        truth=truth,
        groups=np.arange(N) // 2,
        digests=tuple(f"{i:064x}" for i in range(N)),
        pixels=np.random.default_rng(0).integers(0, 255, (N, 32, 32, 3), dtype=np.uint8),
        subgroups={
            "type": tuple(kind if truth[i] else None for i, kind in enumerate(kinds)),
            "sex": tuple("female" if i < 30 else "male" for i in range(N)),
        },
    )
    fitting = plan_cross_fitting(held_out, RECIPES[recipe])
    made = Comparison(
        run_id=7,
        finished_at="2026-01-01T00:00:00+00:00",
        recipe=recipe,
        settings=asdict(RECIPES[recipe]),
        software={"pneumoscreen": "0.1"},
        device="CPU",
        data=DataSummary(
            fingerprint="f" * 64,
            training={"NORMAL": 100, "PNEUMONIA": 300},
            held_out={"NORMAL": 50, "PNEUMONIA": 150},
            unreadable={"corrupt-image": 2},
            duplicates=3,
            told_by={"name": 350, "nothing": 250},
            leaked=5,
            without_file=6,
        ),
        held_out=held_out,
        outcomes=outcomes,
        answers=tuple(fitting.answers(one, held_out) for one in outcomes),
        fitted_on=fitting.fitted_on,
        folds=fitting.folds,
        failed=(FailedBackbone(backbone="alexnet", seed=42, problem="training-diverged"),),
        baseline=np.random.default_rng(1).random(N),
    )
    return replace(made, **changes)


TRUTH = (np.arange(N) % 4 > 0).astype(np.int64)

Outcome = Callable[..., BackboneOutcome]
Compared = Callable[..., Comparison]
Reported = Callable[..., Findings]


@pytest.fixture
def truth() -> np.ndarray:
    """Return the classes of the held-out images."""
    return TRUTH


@pytest.fixture
def outcome() -> Outcome:
    """Make an outcome of a backbone: name, noise, truth."""
    return make_outcome


#: Comparisons without changes, by recipe, and findings by the identity of their comparison.
_made: dict[RecipeName, Comparison] = {}
_found: dict[int, tuple[Comparison, Findings]] = {}


@pytest.fixture
def compare() -> Compared:
    """Make a comparison."""

    def make(
        *outcomes: BackboneOutcome, recipe: RecipeName = RecipeName.THESIS, **changes: Any
    ) -> Comparison:
        if outcomes or changes:
            return make_comparison(*outcomes, recipe=recipe, **changes)
        if recipe not in _made:
            _made[recipe] = make_comparison(recipe=recipe)
        return _made[recipe]

    return make


@pytest.fixture
def report() -> Reported:
    """Make the findings of a comparison, with a challenge if there is one."""

    def build(comparison: Comparison, challenge: Challenge | None = None) -> Findings:
        if challenge is not None:
            return build_report(comparison, select(comparison), challenge)
        if id(comparison) not in _found:
            _found[id(comparison)] = comparison, build_report(comparison, select(comparison))
        return _found[id(comparison)][1]

    return build
