"""Training runs as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scheduler.cli.console import print_table, say

if TYPE_CHECKING:
    from db.tables import TrainingRun


def print_runs(runs: Sequence[TrainingRun]) -> None:
    """Print how far training runs have come, and how they ended: of one that is done, the winner."""
    if not runs:
        say("There are no training runs yet. `pneumoscreen retrain DATA` starts one.")
        return
    print_table(
        ("run", "state", "recipe", "backbone", "epoch", "loss", "AUC", "left", "problem"),
        [_row(run) for run in runs],
    )


def _row(run: TrainingRun) -> tuple[object, ...]:
    progress = run.progress
    left = progress.get("seconds_left")
    return (
        run.id,
        run.state,
        run.plan["recipe"]["name"],
        progress.get("backbone", ""),
        progress.get("epoch", ""),
        f"{progress['valid_loss']:.4f}" if "valid_loss" in progress else "",
        f"{progress['auc']:.4f}" if "auc" in progress else "",
        "" if left is None else f"{left // 60} min {left % 60} s",
        run.problem or "",
    )
