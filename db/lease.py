"""Leases: a row of the job table that one process works on until a time, which it can extend.

A holder shows the token of its claim with every write, so that a process whose lease was taken over changes
nothing. The database's clock alone decides when a lease expires. Batches, ingests, nightly runs and training
runs have leases.
"""

from __future__ import annotations

import logging
import secrets
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from sqlalchemy import ColumnElement, Update, and_, or_, update
from sqlalchemy.orm import Session

from db.clock import database_now
from db.database_errors import DatabaseFailed
from db.engine import Database
from db.errors import PneumoscreenError
from db.tables import Batch, Ingest, NightlyRun, TrainingRun
from db.transitions import BatchChange, IngestChange, NightChange, RunChange, Transition, affected, changing

log = logging.getLogger(__name__)

#: A table whose rows have leases.
Leased = type[Batch] | type[Ingest] | type[NightlyRun] | type[TrainingRun]

#: What a holder's heartbeat does. Its target is the state of a row that somebody holds.
_RENEW: dict[Leased, Transition[Any]] = {
    Batch: BatchChange.RENEW,
    Ingest: IngestChange.RENEW,
    NightlyRun: NightChange.RENEW,
    TrainingRun: RunChange.RENEW,
}

#: The columns of a row that nobody holds.
RELEASED = {"lease_token": None, "lease_until": None}

#: Heartbeats during one lease: a single late or failed heartbeat must not lose it.
BEATS_PER_LEASE = 5

#: Seconds after which a failed heartbeat is tried again.
_RETRY_SECONDS = 1.0


class LeaseLost(PneumoscreenError):
    """The lease has expired, and another process may hold it. What this process did under it is dropped."""

    code = "lease-lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease of one row."""

    table: Leased
    row_id: int
    #: Different for each claim of the row.
    token: str
    #: How long it lasts from the claim, and from each heartbeat.
    seconds: float


def new_lease(table: Leased, row_id: int, *, seconds: float) -> Lease:
    """Return a lease for a claim to come; nobody holds it yet."""
    return Lease(table=table, row_id=row_id, token=secrets.token_hex(16), seconds=seconds)


def expired(table: Leased) -> ColumnElement[bool]:
    """Match rows whose holder let the lease expire."""
    return and_(table.state == _RENEW[table].to, table.lease_until < database_now())


def free(table: Leased, transition: Transition[Any]) -> ColumnElement[bool]:
    """Match rows that a transition may start from and that nobody holds."""
    held = _RENEW[table].to
    waiting = [state for state in transition.sources if state is not held]
    if held not in transition.sources:
        return table.state.in_(waiting)
    return or_(table.state.in_(waiting), expired(table))


def held_by(lease: Lease) -> ColumnElement[bool]:
    """Match the row of a lease while it is held."""
    table = lease.table
    return and_(table.id == lease.row_id, table.state == _RENEW[table].to, table.lease_token == lease.token)


def held_values(lease: Lease) -> dict[str, Any]:
    """Return the columns of a row that is claimed under a lease."""
    return {"lease_token": lease.token, "lease_until": database_now() + lease.seconds}


def claiming(lease: Lease, transition: Transition[Any], *which: ColumnElement[bool], **values: Any) -> Update:
    """Return the UPDATE that claims a row if nobody holds it and it matches `which`.

    Of several claims at once, one changes the row. The others wait for it, check the row again and match
    nothing.
    """
    table = lease.table
    return changing(
        table,
        transition,
        table.id == lease.row_id,
        free(table, transition),
        *which,
        **held_values(lease),
        **values,
    )


def renew(session: Session, lease: Lease) -> None:
    """Extend a lease. Raises LeaseLost."""
    if not try_renew(session, lease):
        raise LeaseLost


def try_renew(session: Session, lease: Lease) -> bool:
    """Extend a lease; return whether this process still holds it."""
    table = lease.table
    renewal = changing(
        table,
        _RENEW[table],
        table.id == lease.row_id,
        table.lease_token == lease.token,
        lease_until=database_now() + lease.seconds,
    )
    return affected(session, renewal) == 1


def write_held(session: Session, lease: Lease, **values: Any) -> None:
    """Change columns of a row under its lease. Raises LeaseLost."""
    statement = update(lease.table).where(held_by(lease)).values(**values)
    if affected(session, statement.execution_options(synchronize_session=False)) != 1:
        raise LeaseLost


def release(session: Session, lease: Lease, transition: Transition[Any], **values: Any) -> None:
    """End a lease: take its row through a transition. Raises LeaseLost."""
    statement = changing(lease.table, transition, held_by(lease), **RELEASED, **values)
    if affected(session, statement) != 1:
        raise LeaseLost


class Heartbeat:
    """A thread that extends a lease for as long as a block runs."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease
        self._name = f"{lease.table.__tablename__} {lease.row_id}"
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease of {self._name}", daemon=True)

    def lose(self) -> None:
        """Give the lease up: the next `check` raises LeaseLost."""
        self._lost.set()

    def check(self) -> None:
        """Raise LeaseLost if the lease is known to be lost, so that its holder stops working."""
        if self.is_lost():
            raise LeaseLost

    def is_lost(self) -> bool:
        """Tell whether the lease is known to be lost."""
        return self._lost.is_set()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        between = self._lease.seconds / BEATS_PER_LEASE
        pause = between
        while not self._stop.wait(pause):
            pause = between
            try:
                with self._database.write() as session:
                    renew(session, self._lease)
            except LeaseLost:
                self._lost.set()
                return
            except DatabaseFailed as error:
                # Retry soon: after an outage the lease must be extended before the next sweep.
                log.warning("heartbeat of %s failed: %s", self._name, error.code)
                pause = min(between, _RETRY_SECONDS)
