"""The choice of a run's winner, by a rule that is fixed before the results are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

from training.evaluation.measures import levels, ordered_pairs
from training.evaluation.paired import Paired, compare_all
from training.outcome import Comparison

#: The rule, as the report says it. It needs no figure that the report does not show.
RULE = (
    "The backbone with the highest AUC leads. Those whose AUC is lower by no more than noise are level with "
    "it. Of the level ones the one with the highest accuracy at its operating point wins, as in the thesis; "
    "of equally accurate ones the one with the higher AUC, then the one with the lower validation loss."
)


@dataclass(frozen=True, slots=True)
class Selection:
    """The winner of a comparison, and how the others stand to it."""

    #: Indices of outcomes: the winner, the one with the highest AUC, and those that are level with it.
    winner: int
    highest: int
    level: tuple[int, ...]
    #: The AUC and the accuracy of each outcome, in the same order.
    aucs: tuple[float, ...]
    accuracies: tuple[float, ...]
    pairs: tuple[Paired, ...]


def select(comparison: Comparison) -> Selection:
    """Choose the winner by `RULE`."""
    positive = comparison.held_out.positive
    aucs = [ordered_pairs(levels(one.score), positive, ~positive) for one in comparison.answers]
    accuracies = [float((one.called == positive).mean()) for one in comparison.answers]
    named = [replace(one, model=name) for one, name in zip(comparison.answers, comparison.names, strict=True)]
    pairs = compare_all(positive, named, comparison.held_out.groups)

    def merit(index: int) -> tuple[float, float]:
        return aucs[index], -comparison.outcomes[index].epochs[-1].valid_loss

    indices = range(len(comparison.outcomes))
    highest = max(indices, key=merit)
    lower = {
        pair.other if pair.one == comparison.names[highest] else pair.one
        for pair in pairs
        if pair.higher_auc == comparison.names[highest]
    }
    level = tuple(index for index in indices if comparison.names[index] not in lower)
    winner = max(level, key=lambda index: (accuracies[index], *merit(index)))
    return Selection(winner, highest, level, tuple(aucs), tuple(accuracies), tuple(pairs))
