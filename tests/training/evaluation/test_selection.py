"""The choice of the winner by the rule that the report states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.evaluation.selection import select
from training.outcome import Answers, BackboneOutcome, Comparison, DataSummary, EpochResult, FittedOn, HeldOut

Score = tuple[np.ndarray, float]


def compare(n: int, **scores: Score) -> Comparison:
    """Make a comparison of backbones, each with probabilities and a threshold."""
    truth = truth_of(n)
    held_out = HeldOut(
        classes=("NORMAL", "PNEUMONIA"),
        positives=("PNEUMONIA",),
        truth=truth.astype(np.int64),
        groups=np.arange(n),
        digests=("",) * n,
        pixels=np.zeros((n, 1, 1, 3), np.uint8),
    )
    outcomes = tuple(
        BackboneOutcome(
            backbone=name,
            seed=42,
            model_id=f"{name}-0123456789ab",
            epochs=(EpochResult(epoch=0, train_loss=0.1, valid_loss=0.2, accuracy=0.9),),
            probabilities=np.stack([1 - probability, probability], axis=1),
            temperature=1.0,
            threshold=threshold,
            seconds=1.0,
            peak_memory_bytes=1,
            initial_weights_digest=None,
        )
        for name, (probability, threshold) in scores.items()
    )
    return Comparison(
        run_id=1,
        finished_at="2026-01-01T00:00:00+00:00",
        recipe="clinical",
        settings={},
        software={},
        device="CPU",
        data=DataSummary(
            fingerprint="", training={}, held_out={}, unreadable={}, duplicates=0, told_by={}, leaked=0
        ),
        held_out=held_out,
        outcomes=outcomes,
        answers=tuple(
            Answers(one.model_id, one.answers(held_out).probability, one.threshold) for one in outcomes
        ),
        fitted_on=FittedOn.NOTHING,
        folds=0,
        failed=(),
        baseline=np.zeros(n),
    )


def truth_of(n: int) -> np.ndarray:
    return np.arange(n) % 4 > 0


def scores(n: int, gain: float, seed: int, noise: float = 1.0) -> np.ndarray:
    shared = np.random.default_rng(0).normal(truth_of(n) * 2.0, 1)
    own = np.random.default_rng(seed).normal(0, noise, n)
    return 1 / (1 + np.exp(-(gain * shared + own)))


def name_of(comparison: Comparison, index: int) -> str:
    return comparison.names[index]


def test_a_higher_auc_that_is_noise_does_not_win_against_better_answers() -> None:
    n = 120
    # alexnet's AUC is a little higher, but at its threshold it calls nearly everything pneumonia.
    alexnet, resnet = scores(n, 2, 1, 0.2), scores(n, 2, 2, 0.6)
    comparison = compare(n, alexnet=(alexnet, 0.03), resnet18=(resnet, 0.8))
    found = select(comparison)
    assert name_of(comparison, found.highest) == "alexnet"
    assert found.level == (0, 1)
    assert found.accuracies[1] > found.accuracies[0]
    assert name_of(comparison, found.winner) == "resnet18"


def test_an_auc_that_is_higher_by_more_than_noise_wins_whatever_the_accuracy() -> None:
    n = 2000
    good, bad = scores(n, 3, 1, 0.2), scores(n, 0.5, 2, 1.0)
    comparison = compare(n, alexnet=(bad, 0.4), resnet18=(good, 0.001))
    found = select(comparison)
    assert found.accuracies[0] > found.accuracies[1]
    assert found.level == (1,)
    assert name_of(comparison, found.winner) == "resnet18"


def test_nobody_that_is_level_answers_better_than_the_winner_by_more_than_noise() -> None:
    for seed in range(8):
        random = np.random.default_rng(seed)
        made = {
            name: (scores(90, 1.5, 10 * seed + number, 0.8), float(random.uniform(0.1, 0.9)))
            for number, name in enumerate(("resnet18", "resnet34", "resnet50", "alexnet"))
        }
        comparison = compare(90, **made)
        found = select(comparison)
        winner, level = comparison.names[found.winner], {comparison.names[index] for index in found.level}
        for pair in found.pairs:
            if winner in (pair.one, pair.other) and {pair.one, pair.other} <= level:
                assert pair.better_answers in (None, winner)


def test_of_equally_accurate_ones_the_higher_auc_wins_and_then_the_lower_validation_loss() -> None:
    n = 80
    first = scores(n, 2, 1, 0.3)
    second = first.copy()
    called = np.flatnonzero(first >= 0.5)
    second[called] = np.sort(second[called])[::-1]  # the same answers in another order
    comparison = compare(n, resnet18=(first, 0.5), resnet34=(second, 0.5))
    found = select(comparison)
    assert found.accuracies[0] == found.accuracies[1]
    assert found.winner == found.highest == int(np.argmax(found.aucs))
    same = compare(n, resnet18=(first, 0.5), resnet34=(first.copy(), 0.5))
    better = replace(
        same.outcomes[1], epochs=(EpochResult(epoch=0, train_loss=0, valid_loss=0.1, accuracy=1),)
    )
    assert select(replace(same, outcomes=(same.outcomes[0], better))).winner == 1


def test_one_backbone_alone_wins() -> None:
    found = select(compare(40, resnet18=(scores(40, 2, 1), 0.5)))
    assert (found.winner, found.level, found.pairs) == (0, (0,), ())
