"""Batches that have ended: added once to the totals that `db.queries.totals` reads, and deleted later."""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from db.engine import upsert
from db.queries.totals import sum_batches
from db.states import BatchState
from db.tables import Batch, BatchTotal

#: A batch stays in one of these states.
_ENDED = (BatchState.DONE, BatchState.SPLIT, BatchState.CANCELLED)

#: Batches that are added in one transaction. It keeps the transaction short after an upgrade too.
_AT_ONCE = 2_000


def count_ended(session: Session) -> int:
    """Add batches that have ended to the totals and return how many. Safe to run twice at once."""
    return _count(session, Batch.state.in_(_ENDED), skip_locked=True)


def remove_batches(session: Session, cohort_id: int) -> None:
    """Delete the rows of a cohort's batches. The totals keep their sums."""
    of_cohort = Batch.cohort_id == cohort_id
    while _count(session, of_cohort):
        pass
    here = select(Batch.state, func.count()).where(of_cohort).group_by(Batch.state).order_by(Batch.state)
    for state, batches in session.execute(here).all():
        session.execute(
            update(BatchTotal)
            .where(BatchTotal.state == state)
            .values(pruned=BatchTotal.pruned + batches)
            .execution_options(synchronize_session=False)
        )
    session.execute(delete(Batch).where(of_cohort))


def _count(session: Session, which: ColumnElement[bool], *, skip_locked: bool = False) -> int:
    """Add some of the batches that are not counted yet, and return how many."""
    query = select(Batch.id).where(which, ~Batch.counted).limit(_AT_ONCE)
    batch_ids = session.scalars(query.with_for_update(skip_locked=skip_locked)).all()
    if not batch_ids:
        return 0
    of_these = Batch.id.in_(batch_ids)
    # Always in the same order: otherwise two that add at once could deadlock.
    rows = [dict(row) for row in session.execute(sum_batches(of_these).order_by(Batch.state)).mappings()]
    session.execute(
        update(Batch).where(of_these).values(counted=True).execution_options(synchronize_session=False)
    )
    for row in rows:
        insert = upsert(session, BatchTotal).values(**row, pruned=0)
        grown = {name: getattr(BatchTotal, name) + insert.excluded[name] for name in row if name != "state"}
        session.execute(insert.on_conflict_do_update(index_elements=["state"], set_=grown))
    return len(batch_ids)
