"""The fingerprint of the key that pseudonyms are made with, in the job table."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.audit.events import record
from db.engine import insert_new
from db.tables import Label, Site, Study

#: The id of the only row.
_ONLY = 1


def key_fingerprint(session: Session) -> str | None:
    """Return the fingerprint of the key that pseudonyms are made with; None if none was noted yet."""
    return session.scalar(select(Site.key_fingerprint).where(Site.id == _ONLY))


def holds_pseudonyms(session: Session) -> bool:
    """Tell whether the job table holds a patient's pseudonym, even if no key is noted."""
    return any(
        session.scalar(select(table.id).where(table.patient_key.is_not(None)).limit(1)) is not None
        for table in (Study, Label)
    )


def note_key(session: Session, fingerprint: str) -> str:
    """Note the fingerprint of the key in use if none is noted; return the noted one. Safe to repeat."""
    values = {"id": _ONLY, "key_fingerprint": fingerprint}
    session.execute(insert_new(session, Site).values(values))
    return session.scalars(select(Site.key_fingerprint).where(Site.id == _ONLY)).one()


def replace_key(session: Session, fingerprint: str) -> None:
    """Note that this key is used from now on, and record it in the audit log. Safe to repeat."""
    if note_key(session, fingerprint) != fingerprint:
        session.get_one(Site, _ONLY).key_fingerprint = fingerprint
    record(session, "site-key.replace", "database", fingerprint=fingerprint)
