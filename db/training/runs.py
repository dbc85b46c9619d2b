"""Training runs: opening, claiming, finishing and expiring them.

Every change is guarded by the state that it starts from, and a holder's change by its lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.audit.events import record
from db.clock import database_now
from db.errors import PneumoscreenError
from db.jobs.problems import WorkerLost
from db.lease import RELEASED, Lease, claiming, expired, free, new_lease, release, write_held
from db.states import RunState
from db.tables import TrainingResult, TrainingRun
from db.transitions import RunChange, Transition, affected, change

#: Claims of a run that may expire before it fails. Each one has trained an epoch or more, unless the run
#: itself kills its workers.
ATTEMPTS = 10


class RunUnknown(PneumoscreenError):
    """There is no such training run. `pneumoscreen runs` lists them."""

    code = "run-unknown"


class RunNotOpen(PneumoscreenError):
    """The training run is finished, or another process holds it. Start a new one."""

    code = "run-not-open"


class RunNotQueued(PneumoscreenError):
    """Only a queued run can be cancelled. Stop one that runs in its command (Ctrl-C) or with its worker."""

    code = "run-not-queued"


def open_run(session: Session, plan: dict[str, Any], *, for_worker: bool) -> TrainingRun:
    """Add a run for a worker of the training queue, or for the caller, to claim."""
    run = TrainingRun(state=RunChange.OPEN.to, for_worker=for_worker, plan=plan)
    session.add(run)
    session.flush()
    record(session, "training.open", f"run:{run.id}")
    return run


def reopen_run(session: Session, run_id: int, *, for_worker: bool) -> None:
    """Requeue a run that was stopped, has failed or has expired, with the full number of attempts.

    Raises RunUnknown; RunNotOpen if it is done or somebody holds it.
    """
    find_run(session, run_id)
    reopened = change(
        session, TrainingRun, RunChange.REOPEN,
        TrainingRun.id == run_id, free(TrainingRun, RunChange.REOPEN),
        for_worker=for_worker, problem=None, attempt=0, notified_at=None, finished_at=None, **RELEASED,
    )  # fmt: skip
    if not reopened:
        raise RunNotOpen
    record(session, "training.reopen", f"run:{run_id}")


def cancel_run(session: Session, run_id: int) -> None:
    """Stop a run before a worker or a command claims it. `reopen_run` queues it again.

    Raises RunUnknown, RunNotQueued.
    """
    run = find_run(session, run_id)
    of_run = TrainingRun.id == run_id
    if not change(session, TrainingRun, RunChange.CANCEL, of_run, finished_at=database_now()):
        raise RunNotQueued(f"it is {run.state}")
    record(session, "training.cancel", f"run:{run_id}")


def find_run(session: Session, run_id: int) -> TrainingRun:
    """Return a run, or raise RunUnknown."""
    run = session.get(TrainingRun, run_id)
    if run is None:
        raise RunUnknown
    return run


def open_runs(session: Session) -> Sequence[TrainingRun]:
    """Return the queued and running runs, oldest first."""
    unfinished = TrainingRun.state.in_((RunState.QUEUED, RunState.RUNNING))
    return session.scalars(select(TrainingRun).where(unfinished).order_by(TrainingRun.id)).all()


def all_runs(session: Session) -> Sequence[TrainingRun]:
    """Return every run, the latest first."""
    return session.scalars(select(TrainingRun).order_by(TrainingRun.id.desc())).all()


def claim_run(session: Session, run_id: int, *, owner: str, lease_seconds: float) -> Lease | None:
    """Claim a run that is queued, or whose lease has expired; return None if there is no such run."""
    lease = new_lease(TrainingRun, run_id, seconds=lease_seconds)
    claim = claiming(lease, RunChange.CLAIM, attempt=TrainingRun.attempt + 1, lease_owner=owner)
    return lease if affected(session, claim) else None


def note_progress(session: Session, lease: Lease, progress: dict[str, Any]) -> None:
    """Store the progress of a run. Raises LeaseLost."""
    write_held(session, lease, progress=progress)


def note_result(session: Session, lease: Lease, result: TrainingResult) -> None:
    """Store the result of one backbone with one seed, in place of an earlier try. Raises LeaseLost."""
    write_held(session, lease, lease_token=lease.token)
    earlier = session.scalar(
        select(TrainingResult).where(
            TrainingResult.run_id == lease.row_id,
            TrainingResult.backbone == result.backbone,
            TrainingResult.seed == result.seed,
        )
    )
    if earlier is not None:
        session.delete(earlier)
        session.flush()
    result.run_id = lease.row_id
    session.add(result)


def finish_run(
    session: Session, lease: Lease, transition: Transition[RunState], *, problem: str | None = None
) -> None:
    """End the lease of a run: it is done, has failed, was stopped or is requeued. Raises LeaseLost."""
    ended = transition.to in (RunState.DONE, RunState.FAILED)
    release(
        session,
        lease,
        transition,
        problem=problem,
        notified_at=None,
        finished_at=database_now() if ended else None,
    )
    record(session, f"training.{transition.to}", f"run:{lease.row_id}", problem=problem)


def expire_runs(session: Session) -> int:
    """Take every run whose lease has expired from its holder; return how many there were.

    A run of the training queue is requeued, up to ten times. A run of a command is stopped until a user
    resumes it.
    """
    runs = session.scalars(
        select(TrainingRun).where(expired(TrainingRun)).with_for_update(skip_locked=True)
    ).all()
    for run in runs:
        run.lease_token = run.lease_until = run.notified_at = None
        if not run.for_worker:
            RunChange.EXPIRE_COMMAND.apply(run)
        elif run.attempt < ATTEMPTS:
            RunChange.EXPIRE.apply(run)
        else:
            RunChange.EXPIRE_LAST.apply(run)
            run.problem = WorkerLost.code
        record(session, "training.lost", f"run:{run.id}")
    return len(runs)
