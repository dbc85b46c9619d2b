"""What batches came to, by the state that they ended in; it stays when their rows are moved to an archive.

A batch that has ended does not change any more. A sweep adds it to `batch_totals` and marks it as counted, so
that a reader needs those totals and the few batches that are not counted yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.states import BatchState
from db.tables import Batch, BatchTotal

#: States that a batch stays in.
_ENDED = (BatchState.DONE, BatchState.SPLIT, BatchState.CANCELLED)

_SUMS = ("batches", "images", "lost", "decode_seconds", "forward_seconds", "write_seconds")

#: Batches that are added up in one transaction, so that it is short after an upgrade too.
_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What the batches of one state came to."""

    #: Those whose rows are in the job table, and those that ever were.
    here: int = 0
    batches: int = 0
    images: int = 0
    #: Leases that ended without a result.
    lost: int = 0
    decode_seconds: float = 0.0
    forward_seconds: float = 0.0
    write_seconds: float = 0.0


def batch_totals(session: Session) -> dict[BatchState, Total]:
    """Return what batches came to, by state."""
    kept = {row.state: row for row in session.scalars(select(BatchTotal))}
    fresh = {row.state: row for row in session.execute(_sums(~Batch.counted))}
    return {state: _total(kept.get(state), fresh.get(state)) for state in BatchState}


def count_ended(session: Session) -> int:
    """Add batches that have ended to the totals; return how many. Safe to run twice at once."""
    return _count(session, Batch.state.in_(_ENDED), skip_locked=True)


def remove_batches(session: Session, cohort_id: int) -> None:
    """Delete the rows of a cohort's batches; the totals keep what they came to."""
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
    """Add some of the batches that are not counted yet; return how many."""
    query = select(Batch.id).where(which, ~Batch.counted).limit(_AT_ONCE)
    batch_ids = session.scalars(query.with_for_update(skip_locked=skip_locked)).all()
    if not batch_ids:
        return 0
    of_these = Batch.id.in_(batch_ids)
    # In one order, or two that add at once could wait for each other.
    rows = [dict(row) for row in session.execute(_sums(of_these).order_by(Batch.state)).mappings()]
    session.execute(
        update(Batch).where(of_these).values(counted=True).execution_options(synchronize_session=False)
    )
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    for row in rows:
        insert = dialect.insert(BatchTotal).values(**row, pruned=0)
        grown = {name: getattr(BatchTotal, name) + insert.excluded[name] for name in row if name != "state"}
        session.execute(insert.on_conflict_do_update(index_elements=["state"], set_=grown))
    return len(batch_ids)


def _sums(which: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    seconds = (Batch.decode_seconds, Batch.forward_seconds, Batch.write_seconds)
    return (
        select(
            Batch.state,
            func.count().label("batches"),
            func.coalesce(func.sum(Batch.size), 0).label("images"),
            func.coalesce(func.sum(Batch.lost), 0).label("lost"),
            *(func.coalesce(func.sum(column), 0.0).label(column.key) for column in seconds),
        )
        .where(which)
        .group_by(Batch.state)
    )


def _total(kept: BatchTotal | None, fresh: Row[Any] | None) -> Total:
    """Add what is not counted yet to what is."""
    sums = {name: sum(getattr(one, name) for one in (kept, fresh) if one is not None) for name in _SUMS}
    return Total(here=sums["batches"] - (kept.pruned if kept is not None else 0), **sums)
