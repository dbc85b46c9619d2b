"""The conclusion of a training run: its report, its winner, and whether that becomes champion."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from db.text import counted
from db.training.runs import finish_run, note_progress
from db.transitions import RunChange
from training.data.dataset import Dataset
from training.evaluation.baseline import thumbnail_baseline
from training.evaluation.cross_fitting import plan_cross_fitting
from training.evaluation.promotion import Decision
from training.evaluation.selection import select
from training.fitting.candidate import software
from training.outcome import BackboneOutcome, Comparison, FailedBackbone, HeldOut
from training.report.findings import build_report
from training.report.page import write_report
from training.report.sentences import choice
from training.run.claim import ClaimedRun
from training.run.gate import Challenger, apply_decision, compare_with_champion
from training.run.progress import Step
from worker.runtime.torch.device import best_device


@dataclass(frozen=True, slots=True)
class Finished:
    """The results of a run."""

    run_id: int
    report: Path
    outcomes: tuple[BackboneOutcome, ...]
    failed: tuple[FailedBackbone, ...]
    #: The winner, and whether it passed the comparison with the champion; None without a comparison.
    winner: str
    decision: Decision | None
    #: The AUC of each outcome, in their order, and the sentences that say why the winner was chosen.
    aucs: tuple[float, ...]
    choice: tuple[str, ...]
    promoted: bool
    #: Digests of files that were left out because their labels contradict one another.
    contradicting: list[str]
    #: Labelled images that have no file.
    without_file: int


def conclude(
    run: ClaimedRun,
    dataset: Dataset,
    outcomes: tuple[BackboneOutcome, ...],
    failed: tuple[FailedBackbone, ...],
    without_file: int,
    former: HeldOut | None = None,
) -> Finished:
    """Write the report, compare the winner with the champion, promote it if asked to, and end the run.

    `former` are held-out images of the site whose pictures were replayed.
    """
    comparison = _compare(run, dataset, outcomes, failed, without_file)
    selection = select(comparison)
    winner = comparison.answers[selection.winner]
    # Its answers are those that the report measures.
    challenger = Challenger(answers=winner, former=former)
    challenge = compare_with_champion(run.database, challenger, comparison.held_out)
    findings = build_report(comparison, selection, challenge)
    report = write_report(findings, run.folder)
    with run.database.write() as session:
        decision, promoted = apply_decision(session, challenge, how=run.plan.promote, run=run.id)
        won = _last_progress(outcomes[selection.winner], selection.aucs[selection.winner])
        note_progress(session, run.lease, won)
        finish_run(session, run.lease, RunChange.FINISH)
    if challenge is not None and decision is not None and decision != challenge.decision:
        challenge = replace(challenge, decision=decision)
        report = write_report(build_report(comparison, selection, challenge), run.folder)
    return Finished(
        run_id=run.id,
        report=report,
        outcomes=outcomes,
        failed=failed,
        winner=winner.model,
        decision=decision,
        aucs=selection.aucs,
        choice=tuple(choice(findings)),
        promoted=promoted,
        contradicting=dataset.contradicting,
        without_file=without_file,
    )


def _last_progress(winner: BackboneOutcome, auc: float) -> dict[str, Any]:
    """Return what `runs` shows of a run that is done: its winner, as it was after the last epoch."""
    step = Step(winner.backbone, winner.seed, 1.0, None, winner.epochs)
    return step.as_json() | {"winner": winner.model_id, "auc": auc}


def _compare(
    run: ClaimedRun,
    dataset: Dataset,
    outcomes: tuple[BackboneOutcome, ...],
    failed: tuple[FailedBackbone, ...],
    without_file: int,
) -> Comparison:
    """Return what the report and the choice of the winner need."""
    held_out = dataset.held_out_images(names_below=run.plan.data, named=run.plan.names)
    fitting = plan_cross_fitting(held_out, run.plan.recipe)
    return Comparison(
        run_id=run.id,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=run.plan.recipe.name,
        settings=asdict(run.plan.recipe),
        software=software(),
        device=_device_name(),
        data=replace(dataset.summary(), without_file=without_file),
        held_out=held_out,
        outcomes=outcomes,
        answers=tuple(fitting.answers(one, held_out) for one in outcomes),
        fitted_on=fitting.fitted_on,
        folds=fitting.folds,
        failed=failed,
        baseline=thumbnail_baseline(dataset),
        continued_from=run.plan.start_from,
    )


def _device_name() -> str:
    device = best_device()
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {counted(torch.get_num_threads(), 'thread')}"
