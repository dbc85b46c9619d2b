"""Ingests: the reading of one source into one cohort, under a lease of the command that reads it.

If the lease expires, the ingest is broken off: its cohort stays open until the same source is submitted
again, or the cohort is cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.clock import database_now
from db.engine import upsert
from db.errors import PneumoscreenError
from db.jobs.cohorts import CohortArchived, lock_cohort, mark_ready
from db.lease import Lease, expired, held_by, held_values, new_lease, try_renew
from db.states import CohortState
from db.tables import Cohort, Ingest
from db.transitions import CohortChange, IngestChange, change


class CohortCancelled(PneumoscreenError):
    """The cohort was cancelled while images were added. To continue, `submit` again and `retry`."""

    code = "cohort-cancelled"


class CohortClosed(PneumoscreenError):
    """The cohort was closed while images were added. Give the same command again: it continues."""

    code = "cohort-closed"


class IngestTakenOver(PneumoscreenError):
    """Another command reads the same source into the same cohort. Leave it to that command."""

    code = "ingest-taken-over"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldIngest:
    """An ingest that this command holds."""

    cohort_id: int
    lease: Lease


def begin_ingest(
    session: Session, cohort_id: int, source: str, *, owner: str, lease_seconds: float
) -> HeldIngest:
    """Claim the ingest of a source into a cohort, also if another command holds it."""
    unclaimed = new_lease(Ingest, 0, seconds=lease_seconds)
    values = held_values(unclaimed) | {"lease_owner": owner}
    insert = upsert(session, Ingest).values(
        cohort_id=cohort_id,
        source=source,
        created_at=database_now(),
        state=IngestChange.BEGIN.to,
        **values,
    )
    ingest_id = session.scalars(
        insert.on_conflict_do_update(
            index_elements=["cohort_id", "source"], set_=values | {"state": IngestChange.TAKE_OVER.to}
        ).returning(Ingest.id)
    ).one()
    return HeldIngest(cohort_id=cohort_id, lease=replace(unclaimed, row_id=ingest_id))


def check_ingest(session: Session, cohort_id: int, ingest: HeldIngest | None = None) -> Cohort:
    """Lock a cohort that images are added to and return it; the lease of its ingest is extended.

    An expired lease is still valid if nobody has taken the ingest over and the cohort is open. Without an
    ingest the cohort must be open. Raises CohortArchived, CohortCancelled, CohortClosed, IngestTakenOver.
    """
    cohort = lock_cohort(session, cohort_id)
    if cohort.archived is not None:
        raise CohortArchived
    if cohort.state is CohortState.CANCELLED:
        raise CohortCancelled
    if ingest is None:
        if cohort.state is not CohortState.INGESTING:
            raise CohortClosed
    elif not try_renew(session, ingest.lease):
        token = session.scalars(select(Ingest.lease_token).where(Ingest.id == ingest.lease.row_id)).one()
        raise CohortClosed if token == ingest.lease.token else IngestTakenOver
    else:
        CohortChange.RESUME.apply(cohort)
    return cohort


def end_ingest(session: Session, ingest: HeldIngest) -> None:
    """Note that a source was read to its end; after the last of its sources, the cohort is ready.

    Raises what `check_ingest` raises.
    """
    check_ingest(session, ingest.cohort_id, ingest)
    change(session, Ingest, IngestChange.END, held_by(ingest.lease))
    mark_ready(session, ingest.cohort_id)


def break_off(session: Session, ingest: HeldIngest) -> None:
    """Note that a source was not read to its end, unless another command has taken the ingest over."""
    change(session, Ingest, IngestChange.BREAK_OFF, held_by(ingest.lease))


def give_up_ingests(session: Session, cohort_id: int) -> None:
    """End all ingests of a cohort: nobody will read its sources to the end. It keeps its images."""
    lock_cohort(session, cohort_id)
    change(session, Ingest, IngestChange.GIVE_UP, Ingest.cohort_id == cohort_id)
    mark_ready(session, cohort_id)


def expire_ingests(session: Session) -> int:
    """Break off every ingest whose lease has expired; return how many there were."""
    query = select(Ingest.id).where(expired(Ingest)).with_for_update(skip_locked=True)
    ids = session.scalars(query).all()
    return change(session, Ingest, IngestChange.BREAK_OFF, Ingest.id.in_(ids)) if ids else 0
