"""Acceptances of models at this site: written once, and the newest one of a model counts."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.audit.events import record
from db.models.registry import find_model
from db.tables import Acceptance

#: What results say of a model, by its newest acceptance.
ACCEPTED, NOT_ACCEPTED = "accepted", "not accepted at this site"

#: The most characters of a name that are kept.
_LONGEST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a model measured on labelled images of this site. See `Acceptance` for the fields."""

    model: str
    accepted: bool
    images: int
    data_fingerprint: str
    figures: dict[str, Any]
    reasons: tuple[str, ...]


def write_acceptance(session: Session, measured: Measured, *, by: str | None = None) -> Acceptance:
    """Add an acceptance and its event in the audit log. It decides no prediction and no promotion.

    `by` is the name of the person who measured, as the caller gives it; None is the operating system's user,
    which the event names in any case. Raises ModelUnknown.
    """
    model = find_model(session, measured.model)
    name = _plain(by or "")
    event = record(
        session,
        "model.accept" if measured.accepted else "model.not-accept",
        f"model:{model.id}",
        by=name or None,
        images=measured.images,
        data=measured.data_fingerprint,
        reasons=list(measured.reasons),
    )
    acceptance = Acceptance(
        model_id=model.id,
        accepted=measured.accepted,
        by=name or event.actor,
        images=measured.images,
        data_fingerprint=measured.data_fingerprint,
        figures=measured.figures,
        reasons=list(measured.reasons),
    )
    session.add(acceptance)
    session.flush()
    return acceptance


def _plain(name: str) -> str:
    """Return a name without control characters."""
    return "".join(one for one in name if unicodedata.category(one)[0] != "C").strip()[:_LONGEST]


def newest_acceptances(session: Session) -> dict[int, Acceptance]:
    """Return the newest acceptance of each model that has one, by the model's row id."""
    newest = select(func.max(Acceptance.id)).group_by(Acceptance.model_id)
    found = session.scalars(select(Acceptance).where(Acceptance.id.in_(newest)))
    return {one.model_id: one for one in found}


def standing(session: Session) -> dict[int, str]:
    """Return `accepted` or `not accepted at this site` by the row id of each model that was measured here."""
    newest = select(func.max(Acceptance.id)).group_by(Acceptance.model_id)
    query = select(Acceptance.model_id, Acceptance.accepted).where(Acceptance.id.in_(newest))
    return {model: ACCEPTED if accepted else NOT_ACCEPTED for model, accepted in session.execute(query)}
