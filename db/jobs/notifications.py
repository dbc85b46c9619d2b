"""Notifications: the waiting rows that the broker must be told of.

A message holds the id of one row and may be lost. A row that waits is therefore notified again if nobody
claims it for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from db.clock import database_now
from db.lease import free
from db.states import BatchState, NightState, RunState
from db.tables import Batch, NightlyRun, TrainingRun
from db.transitions import NightChange

#: A table whose waiting rows are notified.
Notified = type[Batch] | type[NightlyRun] | type[TrainingRun]

#: The state of a row that waits.
_WAITING: dict[Notified, Any] = {
    Batch: BatchState.QUEUED,
    NightlyRun: NightState.WAITING,
    TrainingRun: RunState.QUEUED,
}


def waiting(table: Notified) -> ColumnElement[bool]:
    """Match rows that a receiver of a message may claim now."""
    if table is NightlyRun:
        return free(NightlyRun, NightChange.CLAIM)
    if table is TrainingRun:
        return and_(TrainingRun.state == RunState.QUEUED, TrainingRun.for_worker)
    # After an error a batch is claimed only once its pause has ended.
    due = or_(Batch.claim_after.is_(None), Batch.claim_after <= database_now())
    return and_(Batch.state == BatchState.QUEUED, due)


def count_waiting(session: Session, table: Notified) -> int:
    """Count the rows that may be claimed: so many messages are enough, whichever rows they name."""
    return session.scalars(select(func.count()).select_from(table).where(waiting(table))).one()


def rows_to_notify(session: Session, table: Notified, *, again_seconds: float) -> list[int]:
    """Return waiting rows that were never notified, or were last notified at least so long ago."""
    stale = or_(table.notified_at.is_(None), table.notified_at < database_now() - again_seconds)
    query = select(table.id).where(waiting(table), stale)
    # Rows that were never notified come first, in case the broker needs fewer messages.
    return list(session.scalars(query.order_by(table.notified_at.is_not(None), table.id)))


def mark_notified(session: Session, table: Notified, row_ids: Sequence[int]) -> None:
    """Note that the broker was told of these rows."""
    session.execute(
        update(table)
        .where(table.id.in_(row_ids))
        .values(notified_at=database_now())
        .execution_options(synchronize_session=False)
    )


def forget_notifications(session: Session) -> None:
    """Let every waiting row be notified again, because the broker has lost its messages."""
    for table, state in _WAITING.items():
        session.execute(
            update(table)
            .where(table.state == state)
            .values(notified_at=None)
            .execution_options(synchronize_session=False)
        )
