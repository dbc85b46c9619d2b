"""One training run: every backbone, the report, the gate. Killed at any moment, it can be gone on from."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from db.atomic import DiskFull, is_full, write_whole
from db.audit.events import record
from db.database_errors import DatabaseFailed
from db.engine import Database
from db.errors import PneumoscreenError
from db.lease import Heartbeat, Lease, LeaseLost
from db.models.card import ModelPreprocessingMismatch
from db.models.registry import (
    find_champion,
    find_model,
    import_model,
    lock_if_champion,
    promote,
    registered_card,
)
from db.settings import home
from db.states import RunState
from db.tables import TrainingResult
from db.training.runs import RunNotOpen, claim_run, find_run, finish_run, note_progress, note_result
from db.transitions import RunChange, Transition
from training.data.dataset import positives
from training.data.prepare import Prepared, prepare
from training.data.sources import labelled_images, labels_without_file, readings_by_digest
from training.evaluation.promotion import Decision, Verdict, decide, incomparable, outdated
from training.fitting.backbones import RANDOM_WEIGHTS, InitialWeights, check_backbone, find_initial_weights
from training.fitting.baseline import thumbnail_baseline
from training.fitting.candidate import software, write_candidate
from training.fitting.fit import fit_backbone
from training.outcome import BackboneOutcome, Comparison, EpochResult, FailedBackbone, HeldOut, pneumonia
from training.plan import Plan
from training.report import build_report, write_report
from training.settings import TrainingSettings
from worker.runtime.allocator import keep_memory
from worker.runtime.classes import positive_probability
from worker.runtime.device import best_device
from worker.runtime.loading import load_model
from worker.runtime.passes import probabilities_of
from worker.runtime.protocol import Precision
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

#: Free disk that checkpoints and artefacts of the largest backbone need, twice: old and new.
_NEEDED_BYTES = 1_000_000_000

#: Seconds between two notes of progress in the job table.
_NOTE_SECONDS = 2.0


class Interrupted(PneumoscreenError):
    """The training worker is stopping. The run goes on from its last epoch when one starts again."""

    code = "training-interrupted"


class TrainingFailed(PneumoscreenError):
    """Training failed for a reason that was not foreseen. The log has it; `retrain --resume` tries again."""

    code = "training-failed"


@dataclass(frozen=True, slots=True)
class Step:
    """How far a run has come, as the job table and the progress bar show it."""

    backbone: str
    seed: int
    #: Of the whole run, from 0 to 1.
    part: float
    seconds_left: float | None
    epochs: tuple[EpochResult, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `status` shows."""
        last = asdict(self.epochs[-1]) if self.epochs else {}
        return {
            "backbone": self.backbone,
            "seed": self.seed,
            "part": round(self.part, 4),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left),
            **last,
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of a run."""

    run_id: int
    report: Path
    outcomes: tuple[BackboneOutcome, ...]
    failed: tuple[FailedBackbone, ...]
    #: The winner and what the gate said of it.
    winner: str
    decision: Decision | None
    promoted: bool
    contradicting: list[str]
    #: Labelled images that have no file.
    without_file: int


OnStep = Callable[[Step], None]


def run_folder(run_id: int) -> Path:
    """Return where a run keeps its checkpoints and its report."""
    return home() / "training" / f"run-{run_id}"


def train(database: Database, run_id: int, *, on_step: OnStep = lambda _: None) -> Finished:
    """Take a run up, from its last epoch where it was interrupted, and bring it to its end.

    Raises RunUnknown, RunNotOpen, LeaseLost; and, noted in the job table, whatever the data, the weights
    or the disk lack before the first epoch.
    """
    keep_memory()
    owner = f"{socket.gethostname()}:{os.getpid()}"
    lease_seconds = TrainingSettings.read().training_lease_seconds
    with database.write() as session:
        find_run(session, run_id)
        lease = claim_run(session, run_id, owner=owner, lease_seconds=lease_seconds)
        if lease is None:
            raise RunNotOpen
    try:
        with Heartbeat(database, lease) as heartbeat:
            return _Run(database, lease, heartbeat, on_step).run()
    except KeyboardInterrupt:
        _finish(database, lease, RunChange.STOP)
        raise
    except Interrupted:
        _finish(database, lease, RunChange.REQUEUE)
        raise
    except (LeaseLost, DatabaseFailed):
        raise  # without the job table nothing can be noted: the lease ends, and another worker goes on
    except PneumoscreenError as error:
        _finish(database, lease, RunChange.FAIL, error.code)
        raise
    except Exception:
        _finish(database, lease, RunChange.FAIL, TrainingFailed.code)
        raise


def _finish(
    database: Database, lease: Lease, transition: Transition[RunState], problem: str | None = None
) -> None:
    with database.write() as session:
        finish_run(session, lease, transition, problem=problem)


@dataclass(frozen=True, slots=True)
class _Job:
    """One backbone with one seed, and its part of the whole run."""

    backbone: str
    seed: int
    initial: InitialWeights
    share: float
    start: float = 0.0


class _Run:
    """A run that is held."""

    def __init__(self, database: Database, lease: Lease, heartbeat: Heartbeat, on_step: OnStep) -> None:
        self.database, self.run_id, self.lease = database, lease.row_id, lease
        self.heartbeat, self.on_step = heartbeat, on_step
        self.folder = run_folder(self.run_id)
        with database.read() as session:
            self.plan = Plan.model_validate(find_run(session, self.run_id).plan)
        self.recipe = self.plan.make_recipe()
        self._noted = 0.0

    def run(self) -> Finished:
        """Train, compare, report, decide."""
        weights = {backbone: self._initial(backbone) for backbone in self.plan.backbones}
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.disk_usage(self.folder).free < _NEEDED_BYTES:
            raise DiskFull("less than 1 GB is free")
        prepared = prepare(
            labelled_images(self.database, self.plan),
            self.plan.classes,
            self.recipe,
            readings_by_digest(self.database, self.plan),
        )
        outcomes: list[BackboneOutcome] = []
        failed: list[FailedBackbone] = []
        share = 1 / (len(weights) * self.recipe.seeds)
        jobs = [
            _Job(backbone, self.recipe.seed + number, initial, share)
            for backbone, initial in weights.items()
            for number in range(self.recipe.seeds)
        ]
        for number, job in enumerate(jobs):
            result = self._one(replace(job, start=number * share), prepared)
            (outcomes if isinstance(result, BackboneOutcome) else failed).append(result)  # type: ignore[arg-type]
        if not outcomes:
            raise TrainingFailed(", ".join(sorted({one.problem for one in failed})))
        return self._conclude(prepared, outcomes, failed)

    def _initial(self, backbone: str) -> InitialWeights:
        check_backbone(backbone)
        if backbone in self.plan.random_weights:
            return RANDOM_WEIGHTS
        return find_initial_weights(backbone, self.plan.weights)

    # -- one backbone

    def _one(self, job: _Job, prepared: Prepared) -> BackboneOutcome | FailedBackbone:
        """Train one backbone, or return what an earlier try came to; its failure is its own."""
        backbone, seed = job.backbone, job.seed
        folder = self.folder / f"{backbone}-{seed}"
        earlier = _read_outcome(folder / "outcome.json")
        if earlier is not None:
            return earlier
        try:
            outcome = self._fit(job, prepared)
        except (LeaseLost, Interrupted, DatabaseFailed):
            raise
        except PneumoscreenError as error:
            problem = error.code
        except OSError as error:
            problem = DiskFull.code if is_full(error) else TrainingFailed.code
            log.exception("training %s failed", backbone)
        except (RuntimeError, ValueError):  # torch's own, out of memory among them
            problem = TrainingFailed.code
            log.exception("training %s failed", backbone)
        else:
            _write_outcome(folder / "outcome.json", outcome)
            self._note_result(outcome)
            return outcome
        finally:
            gc.collect()
        with self.database.write() as session:
            result = TrainingResult(backbone=backbone, seed=seed, problem=problem, epochs=[])
            note_result(session, self.lease, result)
        return FailedBackbone(backbone=backbone, seed=seed, problem=problem)

    def _fit(self, job: _Job, prepared: Prepared) -> BackboneOutcome:
        backbone, seed, initial, start, share = job.backbone, job.seed, job.initial, job.start, job.share
        began, first = time.monotonic(), None

        def show(done: float, epochs: tuple[EpochResult, ...]) -> None:
            nonlocal first
            self.heartbeat.check()
            # What was done before a restart says nothing of the pace now.
            first = done if first is None else first
            pace = (time.monotonic() - began) / (done - first) if done > first else None
            left = None if pace is None else pace * (1 - done + (1 - start - share) / share)
            self._show(Step(backbone, seed, start + share * done, left, epochs))

        fitted = fit_backbone(
            backbone,
            prepared,
            self.recipe,
            initial,
            seed=seed,
            folder=self.folder / f"{backbone}-{seed}" / "checkpoint",
            on_step=show,
        )
        card, probabilities = write_candidate(
            backbone, fitted, prepared, self.recipe, initial.digest, self.folder / "models"
        )
        import_model(self.database, self.folder / "models" / card.model_id)
        shutil.rmtree(self.folder / "models" / card.model_id)
        return BackboneOutcome(
            backbone=backbone,
            seed=seed,
            model_id=card.model_id,
            epochs=fitted.epochs,
            probabilities=probabilities,
            temperature=card.temperature,
            threshold=card.threshold,
            seconds=fitted.seconds,
            peak_memory_bytes=fitted.peak_memory_bytes,
            initial_weights_digest=initial.digest,
        )

    def _show(self, step: Step) -> None:
        self.on_step(step)
        if time.monotonic() - self._noted > _NOTE_SECONDS:
            self._noted = time.monotonic()
            try:
                with self.database.write() as session:
                    note_progress(session, self.lease, step.as_json())
            except DatabaseFailed as error:
                # Hours of work are not dropped over a note; the heartbeat tells whether the lease holds.
                log.warning("progress of run %d: %s", self.run_id, error.code)

    def _note_result(self, outcome: BackboneOutcome) -> None:
        with self.database.write() as session:
            result = TrainingResult(
                backbone=outcome.backbone,
                seed=outcome.seed,
                model_id=find_model(session, outcome.model_id).id,
                epochs=[asdict(epoch) for epoch in outcome.epochs],
            )
            note_result(session, self.lease, result)

    # -- all of them

    def _conclude(
        self, prepared: Prepared, outcomes: list[BackboneOutcome], failed: list[FailedBackbone]
    ) -> Finished:
        held_out = prepared.held_out_images()
        without_file = labels_without_file(self.database, self.plan)
        targets = np.isin(prepared.targets, [prepared.classes.index(n) for n in positives(prepared.classes)])
        comparison = Comparison(
            run_id=self.run_id,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=self.recipe.name,
            settings=asdict(self.recipe),
            software=software(),
            device=_device_name(),
            data=replace(prepared.summary(), without_file=without_file),
            held_out=held_out,
            outcomes=tuple(outcomes),
            failed=tuple(failed),
            baseline=thumbnail_baseline(prepared.pictures.pixels, targets, prepared.held_out),
        )
        report = write_report(build_report(comparison), self.folder)
        winner = best(outcomes, held_out)
        decision = self._decide(winner, held_out)
        with self.database.write() as session:
            if decision is not None and not lock_if_champion(session, decision.champion):
                log.warning("run %d: another model became champion while the gate was asked", self.run_id)
                decision = outdated(decision)
            promoted = decision is not None and decision.passed and self.plan.promote == "auto"
            if decision is not None:
                record(
                    session,
                    "gate.yes" if decision.passed else "gate.no",
                    f"model:{find_model(session, winner.model_id).id}",
                    champion=decision.champion,
                    reasons=list(decision.reasons),
                    run=self.run_id,
                )
            if promoted:
                promote(session, winner.model_id)
            finish_run(session, self.lease, RunChange.FINISH)
        return Finished(
            run_id=self.run_id,
            report=report,
            outcomes=tuple(outcomes),
            failed=tuple(failed),
            winner=winner.model_id,
            decision=decision,
            promoted=promoted,
            contradicting=prepared.contradicting,
            without_file=without_file,
        )

    def _decide(self, winner: BackboneOutcome, held_out: HeldOut) -> Decision | None:
        """Ask the gate; None where the winner screens already."""
        with self.database.read() as session:
            champion = find_champion(session)
        if champion is None or champion.name == winner.model_id:
            return None
        try:
            runtime = load_model(
                self.database.models_folder / champion.name,
                digest=champion.weights_digest,
                card=registered_card(champion),
            )
        except ModelPreprocessingMismatch as error:  # what replaces it is trained by this very run
            return incomparable(winner.model_id, champion.name, error)
        size = WorkerSettings.read().forward_images
        rows = probabilities_of(runtime, held_out.pixels, Precision.FP32, size)
        probability = positive_probability(runtime.card, rows).astype(np.float64)
        reigning = Verdict(champion.name, probability, champion.threshold)
        return decide(
            Verdict(winner.model_id, pneumonia(winner, held_out), winner.threshold), reigning, held_out
        )


def best(outcomes: list[BackboneOutcome], held_out: HeldOut) -> BackboneOutcome:
    """Return the outcome of the highest AUC; among equals the one of the lower validation loss."""

    def merit(outcome: BackboneOutcome) -> tuple[float, float]:
        auc = roc_auc_score(held_out.positive, pneumonia(outcome, held_out))
        return float(auc), -outcome.epochs[-1].valid_loss

    return max(outcomes, key=merit)


def _device_name() -> str:
    device = best_device()
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _write_outcome(file: Path, outcome: BackboneOutcome) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = asdict(replace(outcome, probabilities=None))  # type: ignore[arg-type]
    with write_whole(file) as out:
        out.write(json.dumps(content | {"probabilities": outcome.probabilities.tolist()}).encode())


def _read_outcome(file: Path) -> BackboneOutcome | None:
    """Return what an earlier try came to; None where there is none that can be read."""
    try:
        content = json.loads(file.read_text())
        return BackboneOutcome(
            **content
            | {
                "epochs": tuple(EpochResult(**epoch) for epoch in content["epochs"]),
                "probabilities": np.array(content["probabilities"], dtype=np.float64),
            }
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("an outcome cannot be read (%s) and its backbone is trained again", type(error).__name__)
        return None
