"""The life of a training run: its claim, its lease, and the state in which it ends."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from db.atomic import DiskFull
from db.database_errors import DatabaseFailed
from db.engine import Database
from db.errors import PneumoscreenError
from db.lease import Heartbeat, Lease, LeaseLost
from db.settings import home
from db.states import RunState
from db.training.runs import RunNotOpen, claim_run, find_run, finish_run
from db.transitions import RunChange, Transition
from training.continued.replay import read_former
from training.data.dataset import read_dataset
from training.data.sources import labelled_images, labels_without_file, readings_by_digest
from training.outcome import BackboneOutcome, FailedBackbone
from training.plan import Plan
from training.run.claim import ClaimedRun
from training.run.conclusion import Finished, conclude
from training.run.progress import Interrupted, OnStep, Progress
from training.run.trial import TrainingFailed, find_trials, run_trial
from training.settings import TrainingSettings
from worker.runtime.torch.allocator import keep_memory

#: Free disk, in bytes, that the checkpoints and artefacts of the largest backbone need, old and new ones.
_NEEDED_BYTES = 1_000_000_000


def run_folder(run_id: int) -> Path:
    """Return the folder of a run's checkpoints and report."""
    return home() / "training" / f"run-{run_id}"


def train(database: Database, run_id: int, *, on_step: OnStep = lambda _: None) -> Finished:
    """Claim a run, resume it after its last finished epoch if it was interrupted, and finish it.

    Raises RunUnknown, RunNotOpen, LeaseLost. Errors of the data, the weights or the disk are recorded in
    the job table, and raised.
    """
    keep_memory()
    owner = f"{socket.gethostname()}:{os.getpid()}"
    lease_seconds = TrainingSettings.read().training_lease_seconds
    with database.write() as session:
        plan = find_run(session, run_id).plan
        lease = claim_run(session, run_id, owner=owner, lease_seconds=lease_seconds)
        if lease is None:
            raise RunNotOpen
    try:
        with Heartbeat(database, lease) as heartbeat:
            run = ClaimedRun(database, lease, Plan.model_validate(plan), run_folder(run_id))
            return _train(run, Progress(run, heartbeat, on_step))
    except KeyboardInterrupt:
        _finish(database, lease, RunChange.STOP)
        raise
    except Interrupted:
        _finish(database, lease, RunChange.REQUEUE)
        raise
    except (LeaseLost, DatabaseFailed):
        raise  # nothing can be recorded: the lease expires, and another worker resumes the run
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


def _train(run: ClaimedRun, progress: Progress) -> Finished:
    """Read the data, train every backbone, and conclude."""
    trials = find_trials(run.database, run.plan)
    run.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if shutil.disk_usage(run.folder).free < _NEEDED_BYTES:
        raise DiskFull("less than 1 GB is free")
    dataset = read_dataset(
        labelled_images(run.database, run.plan),
        run.plan.classes,
        run.plan.recipe,
        readings_by_digest(run.database, run.plan),
    )
    former = read_former(run.plan, dataset)
    results = [run_trial(run, trial, dataset, former, progress) for trial in trials]
    outcomes = tuple(one for one in results if isinstance(one, BackboneOutcome))
    failed = tuple(one for one in results if isinstance(one, FailedBackbone))
    if not outcomes:
        raise TrainingFailed(", ".join(sorted({one.problem for one in failed})))
    without_file = labels_without_file(run.database, run.plan)
    held_out = None if former is None else former.held_out_images()
    return conclude(run, dataset, outcomes, failed, without_file, held_out)
