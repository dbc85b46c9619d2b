"""The audit log as a chain: who changes, removes or slips in an event breaks every digest after it.

An event is written with what it tells of, and sealed a few seconds later by whoever sweeps: transactions
that run side by side need not wait for one another's place in the chain. Somebody who may write the whole
table can make the chain anew, or cut off its end: a digest that was its head once, noted elsewhere, shows it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db.errors import PneumoscreenError
from db.tables import Event

#: What the first event holds in place of a digest before it.
_BEGINNING = "0" * 64

#: Names the sealing among PostgreSQL's advisory locks.
_SEAL_LOCK = 7_405_117


class AuditBroken(PneumoscreenError):
    """The audit log was changed after it was written. Compare it with a backup, and find out who did it."""

    code = "audit-broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain that holds."""

    #: Events in it.
    sealed: int
    #: Events that are too new to be in it.
    unsealed: int
    #: The newest digest. Keep it elsewhere: it tells later that nothing before it has changed.
    head: str


def seal(session: Session) -> int:
    """Chain the events that are not yet; return how many there were. Safe to run twice at once."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SEAL_LOCK})
    # By the index of the sequence: this runs every few seconds, and the log only grows.
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
    """Return the newest digest, which stands for every event up to it; None before the first."""
    query = select(Event.digest).where(Event.sequence.is_not(None)).order_by(Event.sequence.desc()).limit(1)
    return session.scalars(query).one_or_none()


def verify(session: Session, *, noted: Collection[str] = ()) -> Chain:
    """Follow the chain from its beginning. `noted` are digests that were its head once.

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
    """Return the newest events, the newest last; of one subject, as in `cohort:12`, or of all."""
    query = select(Event).order_by(Event.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(Event.subject == subject)
    return list(reversed(session.scalars(query).all()))


def _digest(before: str, sequence: int, event: Event) -> str:
    told = [before, sequence, event.at, event.actor, event.action, event.subject, event.detail]
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
