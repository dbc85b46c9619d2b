"""The audit log as a chain of digests. If an event is changed, removed or inserted, no later digest fits.

An event is written in the transaction that does the action, and sealed a few seconds later by a sweep:
transactions that run side by side do not wait for a place in the chain. Somebody who can write the table can
compute the chain again or cut off its end. A digest that was noted elsewhere shows that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db.engine import on_postgresql
from db.errors import PneumoscreenError
from db.tables import Event

#: Stands before the first event in place of a digest.
_BEGINNING = "0" * 64

#: The number of PostgreSQL's advisory lock for sealing.
_SEAL_LOCK = 7_405_117


class AuditBroken(PneumoscreenError):
    """The audit log was changed after it was written. Compare it with a backup, and find out who did it."""

    code = "audit-broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain that was verified."""

    #: Events in the chain.
    sealed: int
    #: Events that are not in the chain yet.
    unsealed: int
    #: The newest digest. Noted elsewhere, it shows later that nothing before it was changed.
    head: str


def seal(session: Session) -> int:
    """Add the unsealed events to the chain and return how many. Safe to run twice at once."""
    if on_postgresql(session):
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SEAL_LOCK})
    # The index of the sequence finds them: this runs every few seconds, and the log only grows.
    new = session.scalars(select(Event).where(Event.sequence.is_(None)).order_by(Event.id)).all()
    if not new:
        return 0
    sealed = select(Event).where(Event.sequence.is_not(None)).order_by(Event.sequence.desc()).limit(1)
    last = session.scalar(sealed)
    sequence, digest = (0, _BEGINNING) if last is None else (last.sequence or 0, last.digest or _BEGINNING)
    for event in new:
        sequence += 1
        digest = _digest(digest, sequence, event)
        event.sequence, event.digest = sequence, digest
    return len(new)


def head(session: Session) -> str | None:
    """Return the newest digest, which covers every event before it; None if there is none."""
    query = select(Event.digest).where(Event.sequence.is_not(None)).order_by(Event.sequence.desc()).limit(1)
    return session.scalars(query).one_or_none()


def verify(session: Session, *, noted: Collection[str] = ()) -> Chain:
    """Verify the chain from its beginning. `noted` are digests that were its head once.

    Raises AuditBroken if an event does not fit, or a noted digest is not in it.
    """
    digest, sealed, missing = _BEGINNING, 0, set(noted)
    query = select(Event).where(Event.sequence.is_not(None)).order_by(Event.sequence)
    for event in session.scalars(query.execution_options(yield_per=1000)):
        sealed += 1
        digest = _digest(digest, sealed, event)
        if event.sequence != sealed or event.digest != digest:
            raise AuditBroken(f"at event {sealed} of the chain")
        missing.discard(digest)
    if missing:
        raise AuditBroken("a noted digest is not in the chain")
    unsealed = len(session.scalars(select(Event.id).where(Event.sequence.is_(None))).all())
    return Chain(sealed=sealed, unsealed=unsealed, head=digest)


def newest(session: Session, *, subject: str | None = None, limit: int = 50) -> list[Event]:
    """Return the newest events, the newest last: of one subject, such as `cohort:12`, or of all."""
    query = select(Event).order_by(Event.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(Event.subject == subject)
    return list(reversed(session.scalars(query).all()))


def _digest(before: str, sequence: int, event: Event) -> str:
    told = [before, sequence, event.at, event.actor, event.action, event.subject, event.detail]
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
