"""Training runs: opening, claiming, keeping, finishing and losing them.

As with batches, every change is guarded by the state and the lease token that it expects to find.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, and_, func, or_, select, update
from sqlalchemy.orm import Session

from db.audit.events import record
from db.clock import database_now
from db.errors import PneumoscreenError
from db.jobs.claims import LeaseLost
from db.jobs.problems import WorkerLost
from db.states import RunState
from db.tables import TrainingResult, TrainingRun

#: Times that a run is taken up before it is given up: each lost one has trained an epoch or more, unless
#: the run itself kills its workers.
ATTEMPTS = 10


class RunUnknown(PneumoscreenError):
    """There is no such training run. `pneumoscreen runs` lists them."""

    code = "run-unknown"


class RunNotOpen(PneumoscreenError):
    """The training run is finished, or somebody else is at it. Start a new one."""

    code = "run-not-open"


def open_run(session: Session, plan: dict[str, Any], *, for_worker: bool) -> TrainingRun:
    """Add a run that waits to be taken up, by a worker of the training queue or by the caller."""
    run = TrainingRun(state=RunState.QUEUED, for_worker=for_worker, plan=plan)
    session.add(run)
    session.flush()
    record(session, "training.open", f"run:{run.id}")
    return run


def reopen_run(session: Session, run_id: int, *, for_worker: bool) -> None:
    """Let a run that was stopped, failed or lost wait again, with all its tries before it.

    Raises RunUnknown; RunNotOpen where it is done, or somebody is at it.
    """
    find_run(session, run_id)
    reopened = session.execute(
        update(TrainingRun)
        .where(TrainingRun.id == run_id, _free(RunState.QUEUED, RunState.STOPPED, RunState.FAILED))
        .values(
            state=RunState.QUEUED, for_worker=for_worker, problem=None, attempt=0,
            lease_token=None, lease_until=None, rung_at=None, finished_at=None,
        )
        .execution_options(synchronize_session=False)
    )  # fmt: skip
    if not _changed(reopened):
        raise RunNotOpen
    record(session, "training.reopen", f"run:{run_id}")


def find_run(session: Session, run_id: int) -> TrainingRun:
    """Return a run, or raise RunUnknown."""
    run = session.get(TrainingRun, run_id)
    if run is None:
        raise RunUnknown
    return run


def open_runs(session: Session) -> Sequence[TrainingRun]:
    """Return the runs that wait or are under way, oldest first."""
    unfinished = TrainingRun.state.in_((RunState.QUEUED, RunState.RUNNING))
    return session.scalars(select(TrainingRun).where(unfinished).order_by(TrainingRun.id)).all()


def all_runs(session: Session) -> Sequence[TrainingRun]:
    """Return every run, the latest first."""
    return session.scalars(select(TrainingRun).order_by(TrainingRun.id.desc())).all()


def claim_run(session: Session, run_id: int, *, owner: str, lease_seconds: float) -> str | None:
    """Take a run that waits, was stopped or was lost; return the lease token, or None where it is taken."""
    token = secrets.token_hex(16)
    taken = _changed(
        session.execute(
            update(TrainingRun)
            .where(
                TrainingRun.id == run_id,
                _free(RunState.QUEUED, RunState.STOPPED),
            )
            .values(
                state=RunState.RUNNING,
                attempt=TrainingRun.attempt + 1,
                lease_token=token,
                lease_owner=owner,
                lease_until=database_now() + lease_seconds,
            )
            .execution_options(synchronize_session=False)
        )
    )
    return token if taken else None


def keep_run(session: Session, run_id: int, token: str, *, lease_seconds: float) -> None:
    """Put off the end of a lease. Raises LeaseLost where it is no longer held."""
    _as_holder(session, run_id, token, lease_until=database_now() + lease_seconds)


def note_progress(session: Session, run_id: int, token: str, progress: dict[str, Any]) -> None:
    """Write down how far a run has come. Raises LeaseLost."""
    _as_holder(session, run_id, token, progress=progress)


def note_result(session: Session, run_id: int, token: str, result: TrainingResult) -> None:
    """Write down what came of one backbone with one seed, in place of an earlier try. Raises LeaseLost."""
    _as_holder(session, run_id, token, lease_token=token)
    earlier = session.scalar(
        select(TrainingResult).where(
            TrainingResult.run_id == run_id,
            TrainingResult.backbone == result.backbone,
            TrainingResult.seed == result.seed,
        )
    )
    if earlier is not None:
        session.delete(earlier)
        session.flush()
    result.run_id = run_id
    session.add(result)


def finish_run(
    session: Session, run_id: int, token: str, state: RunState, *, problem: str | None = None
) -> None:
    """Write down how a run ended, or that it was stopped or waits again. Raises LeaseLost."""
    _as_holder(
        session,
        run_id,
        token,
        state=state,
        problem=problem,
        lease_token=None,
        lease_until=None,
        rung_at=None,
        finished_at=database_now() if state in (RunState.DONE, RunState.FAILED) else None,
    )
    record(session, f"training.{state}", f"run:{run_id}", problem=problem)


def expire_runs(session: Session) -> int:
    """Take every run whose lease has ended away from its holder; return how many there were.

    Those of the training queue wait for another worker, ten times at most; those of a command stand
    stopped until somebody resumes them.
    """
    expired = session.scalars(
        select(TrainingRun)
        .where(TrainingRun.state == RunState.RUNNING, TrainingRun.lease_until < database_now())
        .with_for_update(skip_locked=True)
    ).all()
    for run in expired:
        run.lease_token = run.lease_until = run.rung_at = None
        if not run.for_worker:
            run.state = RunState.STOPPED
        elif run.attempt < ATTEMPTS:
            run.state = RunState.QUEUED
        else:
            run.state, run.problem = RunState.FAILED, WorkerLost.code
        record(session, "training.lost", f"run:{run.id}")
    return len(expired)


def runs_to_ring(session: Session, *, again_seconds: float) -> list[int]:
    """Return waiting runs that the training queue has not been told of, or that nobody came for since."""
    stale = or_(TrainingRun.rung_at.is_(None), TrainingRun.rung_at < database_now() - again_seconds)
    waiting = and_(TrainingRun.state == RunState.QUEUED, TrainingRun.for_worker)
    return list(session.scalars(select(TrainingRun.id).where(waiting, stale).order_by(TrainingRun.id)))


def count_queued_runs(session: Session) -> int:
    """Count the runs that wait for a worker."""
    waiting = and_(TrainingRun.state == RunState.QUEUED, TrainingRun.for_worker)
    return session.scalars(select(func.count()).select_from(TrainingRun).where(waiting)).one()


def mark_runs_rung(session: Session, run_ids: Sequence[int]) -> None:
    """Note that the training queue has been told of these runs."""
    session.execute(
        update(TrainingRun)
        .where(TrainingRun.id.in_(run_ids))
        .values(rung_at=database_now())
        .execution_options(synchronize_session=False)
    )


def forget_run_rings(session: Session) -> None:
    """Let every waiting run be rung for again, as when a broker starts empty."""
    session.execute(
        update(TrainingRun)
        .where(TrainingRun.state == RunState.QUEUED)
        .values(rung_at=None)
        .execution_options(synchronize_session=False)
    )


def _free(*states: RunState) -> ColumnElement[bool]:
    """Match runs of these states, and those whose holder was lost."""
    lost = and_(TrainingRun.state == RunState.RUNNING, TrainingRun.lease_until < database_now())
    return or_(TrainingRun.state.in_(states), lost)


def _as_holder(session: Session, run_id: int, token: str, **values: Any) -> None:
    """Change a run that is held under this token, or raise LeaseLost."""
    changed = _changed(
        session.execute(
            update(TrainingRun)
            .where(
                TrainingRun.id == run_id,
                TrainingRun.state == RunState.RUNNING,
                TrainingRun.lease_token == token,
            )
            .values(**values)
            .execution_options(synchronize_session=False)
        )
    )
    if not changed:
        raise LeaseLost


def _changed(result: object) -> bool:
    assert isinstance(result, CursorResult)  # noqa: S101  (for the type checker: updates always give one)
    return result.rowcount == 1
