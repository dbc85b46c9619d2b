"""The registry: which models there are, and which one screens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db.disk import needs_room
from db.engine import Database
from db.errors import PneumoscreenError
from db.events import record
from db.model_card import (
    CARD_FILE,
    WEIGHTS_FILE,
    ModelCard,
    ModelDigestMismatch,
    ModelInvalid,
    ModelMissing,
    digest_of,
    parse_card,
    read_card,
    read_checked_weights,
)
from db.states import ModelState
from db.tables import Event, Model
from db.uri import is_text


class ModelUnknown(PneumoscreenError):
    """No registered model has this id. `pneumoscreen doctor` names the champion."""

    code = "model-unknown"


class NoChampion(PneumoscreenError):
    """No model is champion, so nothing can be screened. `pneumoscreen up` registers the default."""

    code = "no-champion"


class NothingToRollBack(PneumoscreenError):
    """There was no champion before this one. `pneumoscreen models list` shows what could be promoted."""

    code = "nothing-to-roll-back"


#: In the audit log.
_PROMOTE, _ROLLBACK = "model.promote", "model.rollback"


def import_model(database: Database, folder: Path) -> Model:
    """Check an artefact, copy it into the models folder and register it as a candidate.

    Safe to repeat: a model that is registered already is returned as it is.
    Raises ModelMissing, ModelInvalid, ModelDigestMismatch, DiskFull.
    """
    # Whoever imports may name the folder by a link; in it there is none.
    folder = folder.resolve()
    card = read_card(folder)
    weights = read_checked_weights(folder, card.weights_digest)
    _place(database.models_folder / card.model_id, card, weights)
    with database.write() as session:
        known = session.scalar(select(Model).where(Model.name == card.model_id))
        if known is not None:
            return known
        model = _row(card)
        session.add(model)
        session.flush()
        record(session, "model.import", f"model:{model.id}", digest=card.weights_digest)
        return model


def _place(target: Path, card: ModelCard, weights: bytes) -> None:
    """Put an artefact into the models folder, whole or not at all; one that was damaged there is replaced.

    Raises DiskFull.
    """
    with suppress(ModelMissing, ModelInvalid, ModelDigestMismatch):
        if read_checked_weights(target, digest_of(weights)) and (target / CARD_FILE).is_file():
            return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with needs_room():
            partial.mkdir()
            (partial / WEIGHTS_FILE).write_bytes(weights)
            (partial / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _row(card: ModelCard) -> Model:
    return Model(
        name=card.model_id,
        backbone=card.backbone,
        weights_digest=card.weights_digest,
        threshold=card.threshold,
        card=card.model_dump(mode="json"),
        state=ModelState.CANDIDATE,
    )


def ensure_champion(database: Database, default: Path) -> Model:
    """Return the champion; where there is none yet, import the default model and promote it."""
    with database.read() as session:
        champion = find_champion(session)
    if champion is not None:
        return champion
    model = import_model(database, default)
    with database.write() as session:
        champion = find_champion(session)
        return champion if champion is not None else promote(session, model.name)


def find_champion(session: Session) -> Model | None:
    """Return the model that screens, if there is one."""
    return session.scalar(select(Model).where(Model.state == ModelState.CHAMPION))


def champion(session: Session) -> Model:
    """Return the model that screens, or raise NoChampion."""
    found = find_champion(session)
    if found is None:
        raise NoChampion
    return found


def find_model(session: Session, name: str) -> Model:
    """Return a registered model by its id, or raise ModelUnknown."""
    found = session.scalar(select(Model).where(Model.name == name)) if is_text(name) else None
    if found is None:
        raise ModelUnknown
    return found


def registered_card(model: Model) -> ModelCard:
    """Return a model's card as it was registered. Raises ModelInvalid.

    Whoever can write the file beside the weights moves no threshold.
    """
    return parse_card(json.dumps(model.card).encode())


def still_reigns(session: Session, name: str) -> bool:
    """Tell whether a model is champion; if it is, no other becomes it before the transaction ends."""
    query = select(Model.id).where(Model.name == name, Model.state == ModelState.CHAMPION)
    return session.scalar(query.with_for_update()) is not None


def promote(session: Session, name: str) -> Model:
    """Make a model champion and retire the one that was; batches already cut keep their model.

    Safe to repeat. Raises ModelUnknown.
    """
    model = find_model(session, name)
    if model.state is not ModelState.CHAMPION:
        _crown(session, model, _PROMOTE)
    return model


def rollback(session: Session) -> Model:
    """Make the champion before the present one champion again; as often as there was one.

    Raises NothingToRollBack.
    """
    reigns: list[int] = []
    query = select(Event).where(Event.action.in_((_PROMOTE, _ROLLBACK))).order_by(Event.id)
    for event in session.scalars(query):
        if event.action == _ROLLBACK:
            reigns.pop()
        else:
            reigns.append(int(event.subject.removeprefix("model:")))
    if len(reigns) < 2:
        raise NothingToRollBack
    model = session.get_one(Model, reigns[-2])
    _crown(session, model, _ROLLBACK)
    return model


def _crown(session: Session, model: Model, action: str) -> None:
    before = find_champion(session)
    session.execute(update(Model).where(Model.state == ModelState.CHAMPION).values(state=ModelState.RETIRED))
    model.state = ModelState.CHAMPION
    record(session, action, f"model:{model.id}", before=before.name if before is not None else None)
    session.flush()


def all_models(session: Session) -> Sequence[Model]:
    """Return every model, the latest first."""
    return session.scalars(select(Model).order_by(Model.id.desc())).all()


def model_events(session: Session, model: Model) -> Sequence[Event]:
    """Return what the audit log says of a model, oldest first."""
    query = select(Event).where(Event.subject == f"model:{model.id}").order_by(Event.id)
    return session.scalars(query).all()
