"""Totals of batches by state. They stay when the rows of the batches are moved to an archive.

A batch that has ended does not change any more. `db.upkeep.ended_batches` adds it to `batch_totals` and marks
it as counted, so that a reader needs only those totals and the few batches that are not counted yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.orm import Session

from db.states import BatchState
from db.tables import Batch, BatchTotal

_SUMS = ("batches", "images", "lost", "decode_seconds", "forward_seconds", "write_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sums over all batches of one state."""

    #: Batches whose rows are in the job table.
    here: int = 0
    #: Batches that there ever were.
    batches: int = 0
    images: int = 0
    #: Leases that ended without a result.
    lost: int = 0
    decode_seconds: float = 0.0
    forward_seconds: float = 0.0
    write_seconds: float = 0.0


def batch_totals(session: Session) -> dict[BatchState, Total]:
    """Return the totals of batches by state."""
    kept = {row.state: row for row in session.scalars(select(BatchTotal))}
    uncounted = {row.state: row for row in session.execute(sum_batches(~Batch.counted))}
    return {state: _total(kept.get(state), uncounted.get(state)) for state in BatchState}


def sum_batches(which: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Select the sums over some batches, a row per state."""
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


def _total(kept: BatchTotal | None, uncounted: Row[Any] | None) -> Total:
    """Add the batches that are not counted yet to those that are."""
    sums = {name: sum(getattr(one, name) for one in (kept, uncounted) if one is not None) for name in _SUMS}
    return Total(here=sums["batches"] - (kept.pruned if kept is not None else 0), **sums)
