"""Ingests: one per cohort and source, under a lease of the command that walks the source.

As with batches, every change is guarded by the lease token that it expects to find. An ingest whose lease
ended has broken off: its cohort stays open until the same source is submitted again, or it is cancelled.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import CursorResult, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.clock import database_now
from db.errors import PneumoscreenError
from db.jobs.claims import LeaseLost
from db.jobs.cohorts import CohortArchived, close_ingest, lock_cohort
from db.states import UNFINISHED_INGEST, CohortState, IngestState
from db.tables import Cohort, Ingest


class CohortCancelled(PneumoscreenError):
    """The cohort was cancelled while its source was taken in. To go on, `submit` again and `retry`."""

    code = "cohort-cancelled"


class CohortClosed(PneumoscreenError):
    """The cohort was closed while its source was taken in. Give the same command again: it goes on."""

    code = "cohort-closed"


class IngestTakenOver(PneumoscreenError):
    """Another command takes the same source into the same cohort. Leave it to that one."""

    code = "ingest-taken-over"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestLease:
    """An ingest that this command holds."""

    ingest_id: int
    cohort_id: int
    #: Shown with every write; whoever takes the ingest over has another one.
    token: str
    seconds: float


def begin_ingest(
    session: Session, cohort_id: int, source: str, *, owner: str, lease_seconds: float
) -> IngestLease:
    """Take the ingest of a source into a cohort, also from whoever holds it or held it last."""
    token = secrets.token_hex(16)
    held = {
        "state": IngestState.RUNNING,
        "lease_token": token,
        "lease_owner": owner,
        "lease_until": database_now() + lease_seconds,
    }
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    insert = (
        dialect.insert(Ingest)
        .values(cohort_id=cohort_id, source=source, created_at=database_now(), **held)
        .on_conflict_do_update(index_elements=["cohort_id", "source"], set_=held)
        .returning(Ingest.id)
    )
    return IngestLease(
        ingest_id=session.scalars(insert).one(), cohort_id=cohort_id, token=token, seconds=lease_seconds
    )


def check_ingest(session: Session, cohort_id: int, lease: IngestLease | None = None) -> Cohort:
    """Lock a cohort that takes images in and return it, with the lease put off.

    A lease that ended counts as held while nobody has taken the ingest over and the cohort is open.
    Without a lease the cohort has to be open. Raises CohortArchived, CohortCancelled, CohortClosed,
    IngestTakenOver.
    """
    cohort = lock_cohort(session, cohort_id)
    if cohort.archived is not None:
        raise CohortArchived
    if cohort.state is CohortState.CANCELLED:
        raise CohortCancelled
    if lease is None:
        if cohort.state is not CohortState.INGESTING:
            raise CohortClosed
    elif not _hold(session, lease):
        token = session.scalars(select(Ingest.lease_token).where(Ingest.id == lease.ingest_id)).one()
        raise CohortClosed if token == lease.token else IngestTakenOver
    else:
        cohort.state = CohortState.INGESTING
    return cohort


def keep_ingest(session: Session, lease: IngestLease) -> None:
    """Put off the end of a lease. Raises LeaseLost."""
    if not _hold(session, lease):
        raise LeaseLost


def end_ingest(session: Session, lease: IngestLease) -> None:
    """Say that a source was walked to its end; with the last of its sources the cohort is closed.

    Raises what `check_ingest` raises.
    """
    check_ingest(session, lease.cohort_id, lease)
    session.execute(update(Ingest).where(Ingest.id == lease.ingest_id).values(state=IngestState.ENDED))
    close_ingest(session, lease.cohort_id)


def break_off(session: Session, lease: IngestLease) -> None:
    """Say that a source was not walked to its end, unless somebody has taken it over."""
    session.execute(
        update(Ingest)
        .where(Ingest.id == lease.ingest_id, Ingest.lease_token == lease.token)
        .where(Ingest.state == IngestState.RUNNING)
        .values(state=IngestState.BROKEN_OFF)
    )


def give_up_ingests(session: Session, cohort_id: int) -> None:
    """Close a cohort whose sources nobody will walk to their end; it keeps what was taken in."""
    lock_cohort(session, cohort_id)
    session.execute(
        update(Ingest)
        .where(Ingest.cohort_id == cohort_id, Ingest.state.in_(UNFINISHED_INGEST))
        .values(state=IngestState.ENDED)
    )
    close_ingest(session, cohort_id)


def expire_ingests(session: Session) -> int:
    """Let every ingest whose lease has ended count as broken off; return how many there were."""
    ended = (
        select(Ingest.id)
        .where(Ingest.state == IngestState.RUNNING, Ingest.lease_until < database_now())
        .with_for_update(skip_locked=True)
    )
    ids = session.scalars(ended).all()
    if ids:
        session.execute(update(Ingest).where(Ingest.id.in_(ids)).values(state=IngestState.BROKEN_OFF))
    return len(ids)


def _hold(session: Session, lease: IngestLease) -> bool:
    """Put off the end of a lease; False if it is somebody else's, or if its ingest was ended."""
    result = session.execute(
        update(Ingest)
        .where(
            Ingest.id == lease.ingest_id,
            Ingest.lease_token == lease.token,
            Ingest.state.in_(UNFINISHED_INGEST),
        )
        .values(state=IngestState.RUNNING, lease_until=database_now() + lease.seconds)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)  # noqa: S101  (for the type checker: updates always give one)
    return result.rowcount == 1
